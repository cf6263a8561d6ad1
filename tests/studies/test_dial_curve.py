"""What each setting of the dial costs and gains, against NumPy over every target, and on any number of ranks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.common.distributed import process_group, rank, world_size
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import Signals
from skipwise.models.query_encoder import QueryEncoder
from skipwise.models.rows import own_rows
from skipwise.models.table import SIGNAL_TABLE
from skipwise.retrieval.export.exporter import keep_entry
from skipwise.studies.dial_curve import COST, DIALS, compare_dials, gaining_most, measure_curve
from skipwise.training.build import HeldOut, build_model, table_weight
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.evaluation.records import TargetRanks, target_ranks
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import small

TRACKS, DIM, KEEP = 60, 8, 4


def config_of(recipe: str, data: Path, refit: bool = False, dial: float = 0.0) -> RunConfig:
    config = small(recipe, data.parent)
    return replace(
        config,
        data=replace(config.data, path=str(data), inputs=("skips",)),
        table=replace(config.table, dim=DIM, init_bound=0.5),
        encoder=replace(config.encoder, max_length=6),
        loss=replace(config.loss, keep=0.5, keep_dim=KEEP),
        train=replace(config.train, refit=refit),
        evaluate=replace(config.evaluate, batch_size=24, dial=dial),
    )


def measure(config: RunConfig) -> dict:
    """The curve of an untrained model, and what it was measured with."""
    store = SessionStore(config.data.path)
    model = build_model(config, store.num_tracks)
    model.eval()
    with torch.no_grad():
        model.module.learner.encoder.keep.of_output.weight.mul_(40)  # so that P(kept) is not one half everywhere
    split = "test" if config.train.refit else "validation"
    held_out = HeldOut.of(config.evaluate, store, split)
    names = {"rows": "tracks", "signals": SIGNAL_TABLE}
    tables = {
        name: own_rows(table_weight(model, table), rank(), world_size())[1].clone() for name, table in names.items()
    }
    return {
        "curve": measure_curve(config, store, model),
        "evaluated": Evaluator(config, model).measure(("served",), split, held_out, 0)["served"],
        "encoder": model.module.learner.encoder.state_dict(),
        **tables,
    }


def by_hand(config: RunConfig, split: str, found: dict) -> list[dict]:
    """The figures of each setting, from the output of the encoder at every target."""
    with process_group():
        encoder = build_model(config, TRACKS).module.learner.encoder
    encoder.load_state_dict(found["encoder"])
    query, signals = QueryEncoder(encoder, found["signals"]), Signals.of(("skips",))
    rows = found["rows"].numpy().astype(np.float64)
    whole = SessionStore(config.data.path)
    store = whole.part(split) if whole.unseen else whole
    window = store.read(np.arange(len(store.group_sizes)))
    hits = {(dial, skipped): [] for dial in DIALS for skipped in (False, True)}
    won, expected_skips = {dial: [] for dial in DIALS}, {dial: [] for dial in DIALS}
    for place in range(len(window.numbers)):
        plays = slice(*window.offsets[place : place + 2].tolist())
        tracks, strengths = window.tracks[plays].astype(np.int64), window.skips[plays]
        last = len(tracks) - (1 if split == "test" else 2)
        for at in range(1, len(tracks)) if whole.unseen else [last]:
            read = slice(max(0, at - query.max_tracks), at)
            items, told = rows[tracks[read], :DIM], signals.rows(strengths[read])
            read = torch.from_numpy(items).float()[None], torch.tensor([len(items)]), torch.from_numpy(told)[None]
            output = query(*read)[0].numpy().astype(float)
            logit = rows[:, DIM:] @ output[DIM:-1]
            kept = [later for later in range(at, len(tracks)) if strengths[later] in (0, 3)]
            for dial in DIALS:
                score = rows[:, :DIM] @ output[:DIM] + dial * logit
                for before in range(at, kept[0]) if kept and whole.unseen else ():
                    if tracks[before] != tracks[kept[0]]:
                        won[dial].append(score[tracks[before]] < score[tracks[kept[0]]])
                score[tracks[:at]] = -np.inf
                best = np.argsort(-score)[:10]
                hits[dial, bool(1 <= strengths[at] <= 2)].append(tracks[at] in best)
                expected_skips[dial].append((1 - 1 / (1 + np.exp(-logit[best] - output[-1]))).mean())
    return [
        {
            "dial": dial,
            "hr_at_10": np.mean(hits[dial, False] + hits[dial, True]),
            "kept_hr_at_10": np.mean(hits[dial, False]),
            "skipped_hr_at_10": np.mean(hits[dial, True]),
            "pairs_in_order": np.mean(won[dial]) if won[dial] else None,
            "skip_rate": np.mean(expected_skips[dial]),
            "targets": len(hits[dial, False]) + len(hits[dial, True]),
        }
        for dial in DIALS
    ]


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("recipe", "refit", "unseen"),
    [("unidir", False, True), ("bidir", True, True), ("unidir", False, False), ("unidir", True, False)],
)
def test_any_number_of_ranks_equals_brute_force(recipe: str, refit: bool, unseen: bool, make_dataset, tmp_path: Path):
    split = {"test": 15, "train": 15, "validation": 10} if unseen else None
    data = make_dataset(random_sessions(40, TRACKS, longest=12), TRACKS, split=split)
    config, measured = config_of(recipe, data, refit, dial=0.75), "test" if refit else "validation"
    with process_group():
        alone = measure(config)
    curve, expected = alone["curve"], by_hand(config, measured, alone)
    entry = keep_entry(KEEP, curve)
    assert (entry.dim, entry.split, entry.targets) == (KEEP, measured, expected[0]["targets"])
    for point, wanted in zip(entry.curve, expected, strict=True):
        told = point.model_dump(exclude={"gain"})
        assert told == pytest.approx({name: wanted[name] for name in told}, abs=1e-5)
        gained = [wanted["pairs_in_order"], expected[0]["pairs_in_order"]]
        if not unseen:
            gained = [one["kept_hr_at_10"] - one["skipped_hr_at_10"] for one in (wanted, expected[0])]
        assert (point.gain is None) == (point.dial == 0)
        assert not point.gain or point.gain[0] == pytest.approx(gained[0] - gained[1], abs=1e-5)
    assert np.ptp([point.hr_at_10 for point in entry.curve]) > 0 and np.ptp([point.skip_rate for point in entry.curve])
    # As `evaluate` counts it.
    row = curve.rows[0.75]
    for name in ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10"):
        assert row["metrics"][name] == pytest.approx(alone["evaluated"][name])
    if unseen:
        assert row["figures"]["pairs_in_order"]["mean"] == pytest.approx(alone["evaluated"]["pairs_in_order"])
    for ranked in run_on_ranks(tmp_path, 3, measure, config):
        found = ranked["curve"]
        assert (found.auto, found.targets) == (curve.auto, curve.targets)
        for dial, wanted in curve.rows.items():
            for name, figure in wanted["figures"].items():
                assert found.rows[dial]["figures"][name]["mean"] == pytest.approx(figure["mean"], abs=1e-6)


def row(hr: float, gain: list[float] | None, name: str = "pairs_in_order") -> dict:
    found = {"figures": {"hr@10": {"mean": hr}, name: {"mean": 0.4}}}
    return found if gain is None else found | {"difference": {"hr@10": [hr - 0.703, -1.0, 1.0], name: gain}}


SURE, NOISE = [0.01, 0.001, 0.02], [0.02, 0.0, 0.04]


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        # 0.703 - 0.003 is what it may fall to, that included: 1.0 costs exactly so much, 2.0 more.
        ([(0.5, 0.702, SURE), (1.0, 0.700, [0.03, 0.02, 0.04]), (2.0, 0.6999, [0.06, 0.05, 0.07])], 1.0),
        # More at a lower setting, and a dearer one between two that are cheap enough.
        ([(0.5, 0.703, [0.04, 0.03, 0.05]), (1.0, 0.69, [0.1, 0.09, 0.11]), (2.0, 0.703, [0.03, 0.02, 0.04])], 0.5),
        # Equal gains: the lowest. A gain of HR@10 costs nothing.
        ([(0.5, 0.713, SURE), (1.0, 0.703, SURE)], 0.5),
        # The most is not sure: the most of those that are, or none.
        ([(0.5, 0.703, SURE), (1.0, 0.703, NOISE)], 0.5),
        ([(0.5, 0.703, NOISE), (1.0, 0.703, [-0.01, -0.02, -0.001])], 0.0),
        ([(0.5, 0.69, SURE)], 0.0),
        ([], 0.0),
    ],
)
@pytest.mark.parametrize("name", ["pairs_in_order", "gap_hr@10"])
def test_auto_gains_most_of_what_surely_gains_and_costs_little(points: list, chosen: float, name: str):
    assert COST == 0.003
    assert gaining_most({0.0: row(0.703, None, name)} | {d: row(hr, gain, name) for d, hr, gain in points}) == chosen


def test_pairs_decide_where_there_are_some():
    rows = {0.0: row(0.7, None), 0.5: row(0.7, [-0.01, -0.02, -0.001])}
    rows[0.5]["difference"]["gap_hr@10"] = SURE
    assert gaining_most(rows) == 0.0
    rows[0.0]["figures"].pop("pairs_in_order")
    assert gaining_most(rows) == 0.5


def records(won: int, sessions: int) -> TargetRanks:
    """Sessions of a skipped and then a kept target, a pair each, of which `won` are in order; both listed first."""
    number = np.arange(2 * sessions)
    columns = dict.fromkeys(("ties", "candidates", "target"), number * 0)
    skipped = number % 2 == 0
    return target_ranks(
        columns
        | {"session": number // 2, "position": number % 2 + 1, "rank": number * 0 + 1, "skips": skipped * 2}
        | {"repeated": number < 0, "pairs": skipped * 1, "pairs_won": (skipped & (number < 2 * won)) * 1.0}
    )


@pytest.mark.parametrize(("more", "chosen"), [(3, 0.0), (30, 0.5)])
def test_a_gain_of_three_pairs_of_977_is_noise(more: int, chosen: float):
    rows = compare_dials({0.0: records(400, 977), 0.5: records(400 + more, 977)}, 0.0)
    assert rows[0.5]["difference"]["pairs_in_order"][0] == pytest.approx(more / 977)
    assert gaining_most(rows) == chosen
