"""Popularity and Markov against a plain loop over the same sessions and candidates."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from skipwise.common.distributed import process_group
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines import is_measured, measure_baseline
from skipwise.studies.groupings import groupings
from skipwise.training.build import evaluation_loader
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.records import read_target_ranks
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks

TRACKS = 60


def config_of(data: Path, filter_history: bool = True) -> RunConfig:
    config = RECIPES["best"]()
    return replace(
        config,
        data=replace(config.data, path=str(data), workers=0, lanes=4, batch_size=16),
        evaluate=replace(config.evaluate, candidates=30, batch_size=16, filter_history=filter_history),
    )


def measured(name: str, data: Path, folder: Path, filter_history: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    measure_baseline(name, config_of(data, filter_history), SessionStore(str(data)), folder)


@pytest.fixture
def sessions() -> list:
    return random_sessions(70, TRACKS)


@pytest.mark.ranks
@pytest.mark.parametrize(("ranks", "filter_history"), [(1, True), (2, True), (1, False)])
@pytest.mark.parametrize("name", ["popularity", "markov"])
def test_ranks_are_a_plain_loops(
    name: str, ranks: int, filter_history: bool, sessions: list, make_dataset, tmp_path: Path
):
    data = make_dataset(sessions, TRACKS)
    run_on_ranks(tmp_path, ranks, measured, name, data, tmp_path / "out", filter_history)
    parts = [rows[:-2] for rows, _ in sessions]
    plays = Counter(row for rows in parts for row in rows)
    pairs = Counter(pair for rows in parts for pair in zip(rows, rows[1:], strict=False))

    def score(last: int, row: int) -> tuple[int, int]:
        return (pairs[last, row] if name == "markov" else 0, plays[row])

    with process_group():
        loader = evaluation_loader(config_of(data), SessionStore(str(data)), "uniform", "test", 0)
        candidates = {
            int(number): rows.tolist()
            for batch in loader.epoch(0)
            for number, rows in zip(batch.sessions.session_B, batch.candidates_BC, strict=True)
        }
    for protocol in ("uniform", "full"):
        found = read_target_ranks(tmp_path / "out", protocol, "test")
        assert len(found.session) == len(sessions)
        for session, rank in zip(found.session, found.rank, strict=True):
            *history, target = sessions[session][0]
            heard = set(history) if filter_history else set()
            rivals = candidates[session] if protocol == "uniform" else set(range(TRACKS)) - heard - {target}
            mine = score(history[-1], target)
            assert rank == 1 + sum(score(history[-1], row) >= mine for row in rivals), (protocol, session)


def test_markov_is_popularity_where_no_track_follows_another(make_dataset, tmp_path: Path):
    """Sessions of three tracks leave training one each, and not a single pair."""
    data = make_dataset([(rows[:3], skips[:3]) for rows, skips in random_sessions(40, TRACKS)], TRACKS)
    with process_group():
        for name in ("popularity", "markov"):
            measured(name, data, tmp_path / name)
    for protocol in ("uniform", "full"):
        popular, markov = (
            read_target_ranks(tmp_path / name, protocol, "test").rank for name in ("popularity", "markov")
        )
        assert markov.tolist() == popular.tolist()


def test_another_evaluation_is_measured_again(sessions: list, make_dataset, tmp_path: Path):
    data = make_dataset(sessions, TRACKS)
    store, config = SessionStore(str(data)), config_of(data)
    with process_group():
        assert not is_measured(tmp_path, config, store)
        measured("popularity", data, tmp_path)
        assert is_measured(tmp_path, config, store)
    assert not is_measured(tmp_path, replace(config, evaluate=replace(config.evaluate, seed=1)), store)


def test_groups_are_what_their_names_say(sessions: list, make_dataset, tmp_path: Path):
    data = make_dataset(sessions, TRACKS)
    store = SessionStore(str(data))
    with process_group():
        measured("popularity", data, tmp_path)
    ranks = read_target_ranks(tmp_path, "uniform", "test")
    counts = train_counts(store)
    by = groupings(store, counts)
    lengths = by["session length"](ranks)
    assert lengths.tolist() == [f"{len(sessions[session][0]):02}" for session in ranks.session]
    fifths = by["target's popularity"](ranks)
    plays = counts[ranks.target]
    bounds = [(plays[fifths == name].min(), plays[fifths == name].max()) for name in sorted(set(fifths))]
    assert bounds[0][1] == plays.max() and bounds[-1][0] == plays.min()
    assert all(lower[1] < higher[0] for higher, lower in zip(bounds, bounds[1:], strict=False))
    assert "target's context type" not in by
