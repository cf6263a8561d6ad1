"""Ranks by every protocol against brute force over a dense table: both splits, whole sessions, any number of ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import View
from skipwise.models.query_encoder import QueryEncoder
from skipwise.training.build import HeldOut, build_model, table_weight
from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.evaluation.records import TargetRanks, read_target_ranks
from tests.conftest import Session, random_sessions
from tests.ranks import run_on_ranks

TRACKS = 90
LENGTH = 6
"""Positions that the encoder reads: fewer than the longest session has."""


def config_of(data: Path, recipe: str, positions: str = "all") -> RunConfig:
    config = RECIPES[recipe]()
    return replace(
        config,
        data=replace(config.data, path=str(data), batch_size=16, lanes=4, negatives=10, workers=0),
        table=replace(config.table, dim=16, init_bound=0.5),
        encoder=replace(config.encoder, heads=2, hidden=16, max_length=LENGTH),
        evaluate=replace(config.evaluate, candidates=40, batch_size=24, positions=positions),
    )


def repeating_sessions() -> list[Session]:
    """Of which many play a track twice, and one plays the whole catalogue."""
    sessions = random_sessions(70, TRACKS, longest=14)
    for number, (rows, _) in enumerate(sessions[:30]):
        rows[-1 - number % 2] = rows[0]
    return [*sessions, (list(range(TRACKS)), [0] * TRACKS), ([5], [0]), ([6, 7], [1, 0])]


def measure(config: RunConfig, folder: Path, split: str) -> dict[str, Any]:
    store = SessionStore(config.data.path)
    model = build_model(config, store.num_tracks)
    held_out = HeldOut.of(config.evaluate, store, split)
    return Evaluator(config, model).measure(PROTOCOLS, split, held_out, 0, folder)


def brute_force(config: RunConfig, targets: Callable[[int], list[int]], part: str = "") -> dict[tuple, dict]:
    """By (session, position): row, strength, whether repeated, and each protocol's (above, ties, others).

    Scores are float64 products of the dense table, session by session.
    """
    store = SessionStore(config.data.path)
    store = store.part(part) if part else store
    with process_group():
        model = build_model(config, store.num_tracks)
        table = table_weight(model).local_shards()[0].tensor[:TRACKS].clone()
    encoder = QueryEncoder(model.module.learner.encoder)
    view, found = View(encoder.max_tracks, config.data.skip_up_to), {}
    window = store.read(np.arange(len(store.group_sizes)))
    for place, number in enumerate(window.numbers.tolist()):
        plays = slice(*window.offsets[place : place + 2].tolist())
        rows, strengths = window.tracks[plays].astype(np.int64), window.skips[plays]
        for at in targets(len(rows)):
            read = view.read(rows[None, :at], strengths[None, :at])
            query = encoder(table[torch.from_numpy(read.rows_BT)], torch.from_numpy(read.length_B))[0]
            scores = (table.double() @ query.double()).detach().numpy()
            target, heard = int(rows[at]), set(rows[:at].tolist())
            found[number, at] = {"target": target, "skips": int(strengths[at]), "repeated": target in heard}
            for protocol, others in (("full", set(range(TRACKS))), ("served", set(range(TRACKS)) - heard)):
                others = others - {target}
                above = sum(scores[row] > scores[target] for row in others)
                found[number, at][protocol] = (above, len(others))
    return found


def check(ranks: dict[str, TargetRanks], expected: dict[tuple, dict]) -> None:
    for protocol in ("full", "served"):
        found = ranks[protocol]
        keys = list(zip(found.session.tolist(), found.position.tolist(), strict=True))
        assert keys == sorted(expected), "each target once"
        assert (found.ties == 0).all()
        for place, key in enumerate(keys):
            wanted = expected[key]
            assert found.target[place] == wanted["target"] and found.skips[place] == wanted["skips"]
            assert found.repeated[place] == wanted["repeated"]
            above, others = wanted[protocol]
            missed = protocol == "served" and wanted["repeated"]
            assert (found.rank[place], found.candidates[place]) == (0 if missed else 1 + above, others)


def read(folder: Path, split: str) -> dict[str, TargetRanks]:
    return {protocol: read_target_ranks(folder, protocol, split) for protocol in PROTOCOLS}


@pytest.mark.parametrize("recipe", ["unidir", "bidir"])
@pytest.mark.parametrize(("split", "back"), [("test", 1), ("validation", 2)])
def test_one_target_a_session(recipe: str, split: str, back: int, make_dataset, tmp_path: Path):
    config = config_of(make_dataset(repeating_sessions(), TRACKS), recipe)
    with process_group():
        metrics = measure(config, tmp_path, split)
    ranks, expected = read(tmp_path, split), brute_force(config, lambda length: [length - back] * (length > back))
    check(ranks, expected)
    repeated = [wanted["repeated"] for wanted in expected.values()]
    assert 10 < sum(repeated) < len(repeated) - 10
    for protocol, values in metrics.items():
        left_out = protocol == "paper"  # the session of the whole catalogue, which leaves no candidate
        assert values["targets"] == values["sessions"] == len(expected) - left_out
        assert values["repeated_targets"] == sum(repeated) - left_out * expected[70, TRACKS - back]["repeated"]
        for name in METRICS:
            assert values[name] == pytest.approx(ranks[protocol].values(name).mean(), abs=1e-12)
            chosen = ranks[protocol].skipped & True
            assert values[f"skipped_{name}"] == pytest.approx(ranks[protocol].values(name)[chosen].mean(), abs=1e-12)
    assert metrics["served"]["repeated_hr@20"] == 0
    assert set(ranks["paper"].candidates.tolist()) == {40} and 70 not in ranks["paper"].session


@pytest.mark.parametrize(("positions", "recipe"), [("all", "unidir"), ("last", "unidir"), ("all", "bidir")])
def test_sessions_held_out_whole(positions: str, recipe: str, make_dataset, tmp_path: Path):
    sessions = random_sessions(40, TRACKS, longest=12)
    data = make_dataset(sessions, TRACKS, split={"test": 15, "train": 15, "validation": 10})
    config = config_of(data, recipe, positions)
    for split in ("test", "validation"):
        with process_group():
            metrics = measure(config, tmp_path, split)
        expected = brute_force(
            config, lambda length: list(range(1, length)) if positions == "all" else [length - 1], split
        )
        assert len({session for session, _ in expected}) == metrics["full"]["sessions"] == {"test": 15}.get(split, 10)
        assert metrics["full"]["targets"] == len(expected)
        check(read(tmp_path, split), expected)


def measured_on_ranks(config: RunConfig, folder: Path) -> dict[str, Any]:
    return measure(config, folder, "test")


@pytest.mark.ranks
@pytest.mark.parametrize("split", [None, {"test": 20, "train": 10, "validation": 10}])
def test_any_number_of_ranks_gives_the_same_ranks(split: dict | None, make_dataset, tmp_path: Path):
    """Three do not divide the lanes, nor the batch; with whole sessions, ranks have other numbers of batches."""
    config = config_of(make_dataset(random_sessions(40, TRACKS, longest=14), TRACKS, split=split), "best")
    config = replace(config, evaluate=replace(config.evaluate, batch_size=16))
    found = []
    for count in (1, 2, 3):
        folder = tmp_path / f"ranks-{count}"
        found.append((run_on_ranks(tmp_path, count, measured_on_ranks, config, folder)[0], read(folder, "test")))
    for metrics, ranks in found[1:]:
        for protocol in PROTOCOLS:
            assert metrics[protocol] == pytest.approx(found[0][0][protocol], abs=1e-12)
            for name, values in vars(ranks[protocol]).items():
                np.testing.assert_array_equal(values, getattr(found[0][1][protocol], name), f"{protocol} {name}")


def test_a_fixed_choice_of_sessions(make_dataset, tmp_path: Path):
    """The same ones whatever the size of a batch."""
    config = config_of(make_dataset(random_sessions(60, TRACKS), TRACKS), "best")
    store, chosen = SessionStore(config.data.path), []
    for batch_size in (8, 24):
        config = replace(config, evaluate=replace(config.evaluate, batch_size=batch_size))
        with process_group():
            evaluator = Evaluator(config, build_model(config, TRACKS))
            held_out = HeldOut.of(config.evaluate, store, "test")
            metrics = evaluator.measure(("full",), "test", held_out, 20, tmp_path)
        chosen.append(read_target_ranks(tmp_path, "full", "test"))
        assert metrics["full"]["sessions"] == len(chosen[-1].session) == 20
    assert np.array_equal(chosen[0].session, chosen[1].session)
    assert np.array_equal(chosen[0].rank, chosen[1].rank)
