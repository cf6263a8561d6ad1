"""What is recorded of a baseline against a plain loop over the same sessions and candidates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipwise.common.distributed import process_group
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines import measuring
from skipwise.studies.baselines.markov import Markov
from skipwise.studies.baselines.measuring import BASELINES, Baseline, baselines_of, is_measured, measure_baseline
from skipwise.studies.baselines.popularity import Popularity, PopularityOfListener
from skipwise.studies.baselines.session_neighbours import STAN, VSKNN
from skipwise.studies.groupings import groupings
from skipwise.training.build import HeldOut, evaluation_loader
from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.evaluation.metrics import NOT_ELIGIBLE
from skipwise.training.evaluation.records import read_target_ranks
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.support.profiles import add_profiles, random_profiles

TRACKS = 60
SPLIT = {"test": 20, "train": 40, "validation": 10}


def config_of(data: Path, refit: bool = False) -> RunConfig:
    config = RECIPES["best"]()
    return replace(
        config,
        data=replace(config.data, path=str(data), workers=0, lanes=4, batch_size=16),
        train=replace(config.train, refit=refit),
        evaluate=replace(config.evaluate, candidates=30, batch_size=16),
    )


def measured(baseline: type[Baseline], data: Path, folder: Path, refit: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    measure_baseline(baseline, config_of(data, refit), SessionStore(str(data)), folder)


@pytest.fixture
def sessions() -> list:
    return random_sessions(70, TRACKS)


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("baseline", "ranks", "split", "refit"),
    [
        (PopularityOfListener, 1, None, False),
        (Markov, 2, None, False),
        (STAN, 1, None, True),
        (Markov, 2, SPLIT, False),
        (VSKNN, 1, SPLIT, True),
    ],
)
def test_ranks_are_those_of_a_plain_loop(
    baseline: type[Baseline],
    ranks: int,
    split: dict[str, int] | None,
    refit: bool,
    sessions: list,
    make_dataset,
    tmp_path: Path,
    monkeypatch,
):
    """Fitted to a dataset that holds nothing but what the run beside it trains on."""
    monkeypatch.setattr(measuring, "_SCORES", 5 * TRACKS)
    data, profiles = make_dataset(sessions, TRACKS, split=split), [[] for _ in sessions]
    if baseline is PopularityOfListener:
        profiles = random_profiles(len(sessions), TRACKS, 9)
        add_profiles(data, profiles)
    run_on_ranks(tmp_path, ranks, measured, baseline, data, tmp_path / "out", refit)
    if split:
        trained, targets = sessions[20 : 70 if refit else 60], sessions[:20]
    else:
        trained = [(rows[: -1 if refit else -2], skips[: -1 if refit else -2]) for rows, skips in sessions]
        targets = sessions
    fitted = baseline(SessionStore(str(make_dataset(trained, TRACKS))), 0)

    config, store = config_of(data), SessionStore(str(data))
    with process_group():
        loader = evaluation_loader(config, HeldOut.of(config.evaluate, store, "test"), ("paper",), "test", 0)
        candidates = {
            int(number): rows.tolist()
            for step in loader.epoch(0)
            for batch in step
            for number, rows in zip(batch.sessions.session_B, batch.candidates_BC, strict=True)
        }
    for protocol in PROTOCOLS:
        found = read_target_ranks(tmp_path / "out", protocol, "test")
        assert len(found.session) == (sum(len(rows) - 1 for rows, _ in targets) if split else len(sessions))
        for number, position, rank, ties in zip(found.session, found.position, found.rank, found.ties, strict=True):
            history, target = sessions[number][0][:position], sessions[number][0][position]
            if protocol == "served" and target in history:
                assert rank == NOT_ELIGIBLE
                continue
            rivals = set(candidates[number]) if protocol == "paper" else set(range(TRACKS)) - {target}
            rivals -= set(history) if protocol == "served" else set()
            scores_N = fitted.scores(np.array([history + profiles[number]]))[0]
            assert rank == 1 + sum(scores_N[row] > scores_N[target] for row in rivals), (protocol, number)
            assert ties == sum(scores_N[row] == scores_N[target] for row in rivals), (protocol, number)


def test_names_are_the_folders_of_a_table():
    assert [baseline.name for baseline in BASELINES] == [
        "popularity",
        "session-popularity",
        "markov",
        "item-knn",
        "vsknn",
        "stan",
    ]
    assert len({baseline.label for baseline in (*BASELINES, PopularityOfListener)}) == len(BASELINES) + 1


def test_the_listeners_popularity_is_of_datasets_with_profiles(sessions: list, make_dataset):
    data = make_dataset(sessions, TRACKS)
    assert baselines_of(SessionStore(str(data))) == BASELINES
    add_profiles(data, random_profiles(len(sessions), TRACKS, 9))
    assert baselines_of(SessionStore(str(data))) == (*BASELINES, PopularityOfListener)


def test_another_evaluation_is_measured_again(sessions: list, make_dataset, tmp_path: Path):
    data = make_dataset(sessions, TRACKS)
    store, config = SessionStore(str(data)), config_of(data)
    with process_group():
        assert not is_measured(tmp_path, config, store)
        measured(Popularity, data, tmp_path)
        assert is_measured(tmp_path, config, store)
    assert not is_measured(tmp_path, replace(config, evaluate=replace(config.evaluate, seed=1)), store)
    assert not is_measured(tmp_path, config_of(data, refit=True), store)
    resplit = make_dataset(sessions, TRACKS, split=SPLIT)
    assert not is_measured(tmp_path, config, SessionStore(str(resplit)))


def test_groups_are_what_their_names_say(sessions: list, make_dataset, tmp_path: Path):
    data = make_dataset(sessions, TRACKS)
    store = SessionStore(str(data))
    with process_group():
        measured(Popularity, data, tmp_path)
    ranks = read_target_ranks(tmp_path, "paper", "test")
    counts = train_counts(store)
    by = groupings(store, counts)
    assert by["position in the session"](ranks).tolist() == [
        f"{len(sessions[session][0]):02}" for session in ranks.session
    ]
    assert by["new or repeated target"](ranks).tolist() == [
        "repeated" if sessions[session][0][-1] in sessions[session][0][:-1] else "new" for session in ranks.session
    ]
    fifths = by["target's popularity"](ranks)
    plays = counts[ranks.target]
    bounds = [(plays[fifths == name].min(), plays[fifths == name].max()) for name in sorted(set(fifths))]
    assert bounds[0][1] == plays.max() and bounds[-1][0] == plays.min()
    assert all(lower[1] < higher[0] for higher, lower in zip(bounds, bounds[1:], strict=False))
    assert "target's context type" not in by
