"""What the keep head foresees, and pairs in order, against brute force over a dense table and against torchmetrics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError

from skipwise.common.distributed import process_group, rank, world_size
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import UNKNOWN, Signals
from skipwise.models.query_encoder import QueryEncoder
from skipwise.models.rows import own_rows
from skipwise.models.table import SIGNAL_TABLE
from skipwise.training.build import HeldOut, build_model, table_weight
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.evaluation.records import read_target_ranks
from skipwise.training.evaluation.skip_measures import CELLS
from skipwise.training.evaluation.skip_metrics import SkipMetrics
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks

TRACKS, DIM, KEEP = 60, 8, 4


def config_of(data: Path, recipe: str, dial: float) -> RunConfig:
    config = RECIPES[recipe]()
    return replace(
        config,
        data=replace(config.data, path=str(data), batch_size=16, lanes=4, negatives=10, workers=0, inputs=("skips",)),
        table=replace(config.table, dim=DIM, init_bound=0.5),
        encoder=replace(config.encoder, heads=2, hidden=8, max_length=6),
        loss=replace(config.loss, keep=0.5, keep_dim=KEEP),
        evaluate=replace(config.evaluate, candidates=20, batch_size=24, dial=dial),
    )


def measure(config: RunConfig, folder: Path) -> dict:
    """The metrics of test sessions that were held out whole, and what they were measured with."""
    store = SessionStore(config.data.path)
    model = build_model(config, store.num_tracks)
    with torch.no_grad():
        model.module.learner.encoder.keep.of_output.weight.mul_(40)  # so that P(kept) is not one half everywhere
    metrics = Evaluator(config, model).measure(
        ("served", "full"), "test", HeldOut.of(config.evaluate, store, "test"), 0, folder
    )
    names = {"rows": "tracks", "signals": SIGNAL_TABLE}
    tables = {
        name: own_rows(table_weight(model, table), rank(), world_size())[1].clone() for name, table in names.items()
    }
    return {"metrics": metrics, "encoder": model.module.learner.encoder.state_dict(), **tables}


@pytest.mark.ranks
@pytest.mark.parametrize(("recipe", "dial"), [("unidir", 0.0), ("bidir", 3.0)])
def test_any_number_of_ranks_equals_brute_force(recipe: str, dial: float, make_dataset, tmp_path: Path):
    sessions = random_sessions(40, TRACKS, longest=12)
    data = make_dataset(sessions, TRACKS, split={"test": 15, "train": 15, "validation": 10})
    config = config_of(data, recipe, dial)
    with process_group():
        alone = measure(config, tmp_path / "alone")
        encoder = build_model(config, TRACKS).module.learner.encoder
    encoder.load_state_dict(alone["encoder"])
    query, signals = QueryEncoder(encoder, alone["signals"]), Signals.of(("skips",))
    rows_RX = alone["rows"].double()
    store = SessionStore(str(data)).part("test")
    window, expected = store.read(np.arange(len(store.group_sizes))), []
    averages, halves = [], []
    for place in range(len(window.numbers)):
        plays = slice(*window.offsets[place : place + 2].tolist())
        tracks, strengths = window.tracks[plays].astype(np.int64), window.skips[plays]
        right = []
        for at in range(1, len(tracks)):
            read = slice(max(0, at - query.max_tracks), at)
            items = alone["rows"][torch.from_numpy(tracks[read]), :DIM]
            told = torch.from_numpy(signals.rows(strengths[read]))
            output = query(items[None], torch.tensor([len(items)]), told[None])[0].double()
            q, r, b = output[:DIM], output[DIM:-1], output[-1]
            logit_R = rows_RX[:, DIM:] @ r + b
            score_R = rows_RX[:, :DIM] @ q + dial * logit_R
            if 2 * (at + 1) > len(tracks):
                told = np.where(np.arange(len(tracks)) >= len(tracks) // 2, UNKNOWN, strengths)[read]
                items = alone["rows"][torch.from_numpy(tracks[read]), :DIM]
                halved = query(items[None], torch.tensor([len(items)]), torch.from_numpy(signals.rows(told))[None])
                halved = halved[0].double()
                chance = float((rows_RX[tracks[at], DIM:] @ halved[DIM:-1] + halved[-1]).sigmoid())
                halves.append(chance)
                right.append((chance >= 0.5) == (strengths[at] in (0, 3)))
            else:
                halves.append(np.nan)
            kept = [later for later in range(at, len(tracks)) if strengths[later] in (0, 3)]
            before = tracks[at : kept[0]] if kept else []
            target = tracks[kept[0]] if kept else -1
            pairs = [row for row in before if row != target]
            expected.append(
                (
                    float(logit_R[tracks[at]].sigmoid()),
                    len(pairs),
                    sum(bool(score_R[row] < score_R[target]) for row in pairs),
                    sum(bool(logit_R[row] < logit_R[target]) for row in pairs),
                    int(sum(score_R[row] > score_R[tracks[at]] for row in range(TRACKS))) + 1,
                )
            )
        if right:
            averages.append(np.mean([sum(right[: place + 1]) / (place + 1) * now for place, now in enumerate(right)]))
    found = read_target_ranks(tmp_path / "alone", "full", "test")
    columns = (found.kept_probability, found.pairs, found.pairs_won, found.keep_pairs_won, found.rank)
    for column, wanted in zip(columns, zip(*expected, strict=True), strict=True):
        assert column == pytest.approx(np.array(wanted), abs=1e-5)
    assert found.pairs.sum() > 30 and np.ptp(found.kept_probability) > 0.1, "the case says something"
    values = alone["metrics"]["served"]
    assert found.halved_probability == pytest.approx(np.array(halves), abs=1e-5, nan_ok=True)
    assert np.nanmax(np.abs(found.halved_probability - found.kept_probability)) > 1e-4, "hidden flags change something"
    assert values["next_skip_maa"] == pytest.approx(np.mean(averages)) and len(averages) == 15
    assert values["pairs"] == found.pairs.sum()
    assert values["pairs_in_order"] == pytest.approx(found.pairs_won.sum() / found.pairs.sum())
    assert values["keep_pairs_in_order"] == pytest.approx(found.keep_pairs_won.sum() / found.pairs.sum())
    for result in run_on_ranks(tmp_path, 3, measure, config, tmp_path / "ranks"):
        for name, value in values.items():
            assert result["metrics"]["served"][name] == pytest.approx(value, abs=1e-6), name
    ranks = read_target_ranks(tmp_path / "ranks", "full", "test")
    assert ranks.kept_probability == pytest.approx(found.kept_probability, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    plays=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 999)), min_size=1, max_size=60),
    parts=st.integers(1, 4),
)
def test_auc_and_calibration_equal_torchmetrics(plays: list[tuple[int, int]], parts: int):
    """Probabilities in the middle of a bin each, so that bins lose nothing."""
    skips = torch.tensor([strength for strength, _ in plays])
    probability = (torch.tensor([place for _, place in plays]).double() * 15 + 7.5) / 15000
    metrics = SkipMetrics()
    for chosen in torch.arange(len(plays)).tensor_split(parts):
        nothing = torch.zeros(len(chosen))
        chances = probability[chosen].float(), torch.full((len(chosen),), torch.nan)
        metrics.update(*[nothing.long()] * 3, skips[chosen], *chances, *[nothing] * 3)
    # Plays of which it is not known whether they were skipped are as if they were not there.
    skips, probability = skips[skips >= 0], probability[skips >= 0]
    found, kept = metrics.compute(), ((skips == 0) | (skips == 3)).int()
    assert found["pairs"] == 0 and found["pairs_in_order"] is None
    if not len(kept):
        assert found["next_skip_accuracy"] is None
        return
    assert found["next_skip_accuracy"] == pytest.approx(((probability >= 0.5).int() == kept).double().mean().item())
    calibration = BinaryCalibrationError(n_bins=CELLS)(probability, kept)
    assert found["next_skip_ece"] == pytest.approx(float(calibration), abs=1e-6)
    if 0 < kept.sum() < len(kept):
        assert found["next_skip_auc"] == pytest.approx(float(BinaryAUROC()(probability, kept)), abs=1e-6)
    else:
        assert found["next_skip_auc"] is None


def test_average_accuracy_leaves_out_what_is_not_known():
    """Of a second half that is told right, not known, wrong, right: (1/1 + 2/3) / 3, as without the second."""
    metrics, zeros = SkipMetrics(), torch.zeros(4).long()
    halved, skips = torch.tensor([0.7, 0.2, 0.3, 0.9]), torch.tensor([0, -1, 0, 0])
    for chosen in (slice(0, 2), slice(2, 4)):
        columns = (zeros + 8, torch.arange(1, 5), zeros + 5, skips, halved, halved, zeros, zeros, zeros)
        metrics.update(*(column[chosen] for column in columns))
    assert metrics.compute()["next_skip_maa"] == pytest.approx(5 / 9)


@pytest.mark.parametrize("split", [None, {"test": 15, "train": 15, "validation": 10}])
def test_the_encoder_runs_again_for_maa_alone(split: dict | None, make_dataset, monkeypatch):
    """Once a batch where no session has a second half that is measured, twice where it has."""
    config = config_of(make_dataset(random_sessions(40, TRACKS, longest=12), TRACKS, split=split), "unidir", 0.0)
    batches, encoded = [], []
    with process_group():
        store = SessionStore(config.data.path)
        model = build_model(config, store.num_tracks)
        task, evaluator = model.module, Evaluator(config, model)
        predict, look_up = task.learner.predict, task.look_up
        monkeypatch.setattr(task.learner, "predict", lambda *given: encoded.append(1) or predict(*given))
        monkeypatch.setattr(task, "look_up", lambda sessions: batches.append(1) or look_up(sessions))
        found = evaluator.measure(("served",), "test", HeldOut.of(config.evaluate, store, "test"), 0)["served"]
    assert (found["next_skip_maa"] is not None) == (split is not None) and found["next_skip_auc"] is not None
    assert len(encoded) == (2 if split else 1) * len(batches) > 0


@settings(max_examples=100, deadline=None)
@given(
    sessions=st.lists(st.lists(st.booleans(), min_size=2, max_size=9), min_size=1, max_size=6), parts=st.integers(1, 9)
)
def test_average_accuracy_is_that_of_whole_sessions_however_they_are_cut(sessions: list[list[bool]], parts: int):
    """Each play is kept, and one of the second half told right where its flag says so."""
    rows = [
        (number, at, len(rights), np.nan if at < len(rights) // 2 else 0.6 if rights[at] else 0.4)
        for number, rights in enumerate(sessions)
        for at in range(1, len(rights))
    ]
    session, position, plays, probability = (torch.tensor(column) for column in zip(*rows, strict=True))
    metrics, nothing = SkipMetrics(), torch.zeros(len(rows))
    for chosen in torch.arange(len(rows)).tensor_split(parts):
        columns = (session, position, plays, nothing.long(), nothing, probability, nothing, nothing, nothing)
        metrics.update(*(column[chosen] for column in columns))
    expected = []
    for rights in sessions:
        half = rights[max(len(rights) // 2, 1) :]
        expected.append(sum(sum(half[: at + 1]) / (at + 1) for at, now in enumerate(half) if now) / len(half))
    assert metrics.compute()["next_skip_maa"] == pytest.approx(np.mean(expected))


def test_average_accuracy_by_hand():
    """Of 5 kept plays the last 3, told right, wrong, right: (1/1 + 2/3) / 3. Without a second half there is none."""
    probability = torch.tensor([torch.nan, 0.7, 0.3, 0.9])
    for halved, expected in ((probability, pytest.approx(5 / 9)), (torch.full((4,), torch.nan), None)):
        metrics, zeros = SkipMetrics(), torch.zeros(4).long()
        metrics.update(zeros + 8, torch.arange(1, 5), zeros + 5, zeros, zeros + 0.2, halved, zeros, zeros, zeros)
        found = metrics.compute()
        assert found["next_skip_maa"] == expected and found["next_skip_accuracy"] == 0


def test_pairs_and_scores_without_a_keep_head():
    metrics, unknown, session = SkipMetrics(), torch.full((3,), torch.nan), torch.tensor([4, 4, 5])
    won = torch.tensor([1.5, 0, 0])
    pairs = torch.tensor([2, 0, 1])
    metrics.update(session, session, session, torch.tensor([1, 0, 2]), unknown, unknown, pairs, won, unknown)
    assert metrics.compute() == {
        "next_skip_auc": None,
        "next_skip_accuracy": None,
        "next_skip_maa": None,
        "next_skip_ece": None,
        "pairs_in_order": 0.5,
        "keep_pairs_in_order": None,
        "pairs": 3,
    }
