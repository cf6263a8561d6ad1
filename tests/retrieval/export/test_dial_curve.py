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
from skipwise.retrieval.export.dial_curve import COST, DIALS, gaining_most, measure_dial
from skipwise.retrieval.skip_entries import DialPoint, KeepEntry
from skipwise.training.build import HeldOut, build_model, table_weight
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
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
        model.module.learner.encoder.keep.weight.mul_(40)  # so that P(kept) is not one half everywhere
    split = "test" if config.train.refit else "validation"
    held_out = HeldOut.of(config.evaluate, store, split)
    names = {"rows": "tracks", "signals": SIGNAL_TABLE}
    tables = {
        name: own_rows(table_weight(model, table), rank(), world_size())[1].clone() for name, table in names.items()
    }
    return {
        "entry": measure_dial(config, store, model),
        "evaluated": Evaluator(config, model).measure(("served",), split, held_out, 0)["served"],
        "encoder": model.module.learner.encoder.state_dict(),
        **tables,
    }


def by_hand(config: RunConfig, split: str, found: dict) -> list[dict]:
    """The figures of each setting, from the output of the encoder at every target."""
    with process_group():
        encoder = build_model(config, TRACKS).module.learner.encoder
    encoder.load_state_dict(found["encoder"])
    query, signals = QueryEncoder(encoder), Signals.of(("skips",))
    rows, signal_rows = (found[name].numpy().astype(np.float64) for name in ("rows", "signals"))
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
            items = rows[tracks[read], :DIM] + signal_rows[signals.rows(strengths[read])[:, 0]]
            output = query(torch.from_numpy(items).float()[None], torch.tensor([len(items)]))[0].numpy().astype(float)
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
    entry, expected = alone["entry"], by_hand(config, measured, alone)
    assert (entry.dim, entry.split, entry.targets) == (KEEP, measured, expected[0]["targets"])
    for point, wanted in zip(entry.curve, expected, strict=True):
        assert point.model_dump() == pytest.approx({name: wanted[name] for name in point.model_fields}, abs=1e-5)
    assert np.ptp([point.hr_at_10 for point in entry.curve]) > 0 and np.ptp([point.skip_rate for point in entry.curve])
    # As `evaluate` counts it.
    at = next(point for point in entry.curve if point.dial == 0.75)
    for name, value in (("hr@10", at.hr_at_10), ("pairs_in_order", at.pairs_in_order)):
        assert alone["evaluated"][name] == (None if value is None else pytest.approx(value))
    for ranked in run_on_ranks(tmp_path, 3, measure, config):
        found: KeepEntry = ranked["entry"]
        assert (found.dial, found.targets) == (entry.dial, entry.targets)
        for point, wanted in zip(found.curve, entry.curve, strict=True):
            assert point.model_dump() == pytest.approx(wanted.model_dump(), abs=1e-6)


def point(dial: float, hr: float, pairs: float | None, kept: float | None = 0.5, skipped: float | None = None):
    return DialPoint(
        dial=dial, hr_at_10=hr, kept_hr_at_10=kept, skipped_hr_at_10=skipped, pairs_in_order=pairs, skip_rate=0.0
    )


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        # 0.703 - 0.003 is what it may fall to, that included: 1.0 costs exactly so much, 2.0 more.
        ([(0.0, 0.703, 0.40), (0.5, 0.702, 0.41), (1.0, 0.700, 0.43), (2.0, 0.6999, 0.46)], 1.0),
        # More pairs at a lower setting, and a dearer one between two that are cheap enough.
        ([(0.0, 0.70, 0.40), (0.5, 0.70, 0.44), (1.0, 0.69, 0.50), (2.0, 0.70, 0.43)], 0.5),
        # Equal gains: the lowest. A gain of HR@10 costs nothing.
        ([(0.0, 0.70, 0.40), (0.5, 0.71, 0.44), (1.0, 0.70, 0.44)], 0.5),
        # Nothing gains, nothing is cheap enough, nothing is known of pairs.
        ([(0.0, 0.70, 0.40), (0.5, 0.70, 0.39)], 0.0),
        ([(0.0, 0.70, 0.40), (0.5, 0.69, 0.60)], 0.0),
        ([(0.0, 0.70, None), (0.5, 0.70, None)], 0.0),
        # Without pairs: gaps of 0.01, 0.03 and 0.04 between kept and skipped targets, the last at too high a price.
        ([(0.0, 0.70, None, 0.71, 0.70), (0.5, 0.70, None, 0.72, 0.69), (1.0, 0.69, None, 0.71, 0.67)], 0.5),
        # Pairs decide where there are some.
        ([(0.0, 0.70, 0.41, 0.71, 0.70), (0.5, 0.70, 0.40, 0.72, 0.69)], 0.0),
    ],
)
def test_auto_gains_most_of_what_costs_little(points: list, chosen: float):
    assert COST == 0.003
    assert gaining_most([point(*figures) for figures in points]) == chosen
