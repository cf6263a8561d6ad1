"""What an export recommends is counted as `evaluate --protocol full` counts: a plain recount, session by session."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.common.errors import UserError
from skipwise.components.evaluate import EvaluateRunConfig
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.hit_rates import measure_hit_rates, open_exported, ranks_of
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.training.config import RunConfig
from skipwise.training.run.directory import RunDirectory, RunRecord
from tests.conftest import random_sessions
from tests.retrieval.search.exports import DIM

TRACKS, KEPT = 60, 25
"""The table has this many more rows than the data have tracks."""
HELD_OUT = {"validation": 2, "test": 1}


def config_of(path: Path, filter_history: bool) -> RunConfig:
    config = RECIPES["best"]()
    return replace(
        config,
        data=replace(config.data, path=str(path), batch_size=16, lanes=4, workers=0),
        evaluate=replace(config.evaluate, batch_size=16, filter_history=filter_history),
    )


def counted(table: np.ndarray, sessions: list, split: str, filter_history: bool) -> dict[str, float]:
    """The sum of the last 20 tracks asks; what scores as high as the target comes before it."""
    ranks = []
    for tracks, _ in sessions:
        at = len(tracks) - HELD_OUT[split]
        if at < 1:
            continue
        target, heard = tracks[at], tracks[:at]
        scores = table[:TRACKS].astype(np.float64) @ table[heard[-20:]].astype(np.float64).sum(axis=0)
        others = set(range(TRACKS)) - {target} - (set(heard) if filter_history else set())
        ranks.append(1 + sum(scores[other] >= scores[target] for other in others))
    found = {f"hr@{cutoff}": float(np.mean([rank <= cutoff for rank in ranks])) for cutoff in (1, 5, 10, 20)}
    gains = [1 / math.log2(rank + 1) if rank <= 10 else 0 for rank in ranks]
    return found | {"ndcg@10": float(np.mean(gains)), "sessions": len(ranks)}


@pytest.mark.parametrize("filter_history", [True, False])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_as_a_plain_recount(split: str, filter_history: bool, make_dataset: Callable[..., Path], by_hand):
    sessions = random_sessions(80, TRACKS, longest=24) + [([3], [0]), ([5, 9], [0, 1]), ([7, 8, 7], [0, 0, 0])]
    data = make_dataset(sessions, TRACKS)
    table = np.random.default_rng(0).integers(-3, 4, (TRACKS + KEPT, DIM)).astype(np.float32)
    table[TRACKS:] *= 3  # rows that would head every list, were they not left out
    table[10] = table[11]  # whichever is the target, the other one counts against it
    opened = OpenExport.open(by_hand(table, table[:2]))
    found = measure_hit_rates(
        config_of(data, filter_history), SessionStore(str(data)), opened, ExactSearch(opened.vectors), split
    )
    assert found == pytest.approx(counted(table, sessions, split, filter_history))
    assert 0 < found["hr@10"] < found["hr@20"] < 1


def test_ranks_in_a_list():
    rows = torch.tensor([[4, 2, 9], [4, 2, 9], [4, 2, 9], [4, -1, -1]])
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 3.0, 1.0], [3.0, 2.0, 1.0], [3.0, -math.inf, -math.inf]])
    assert ranks_of(torch.tensor([2, 4, 7, 4]), rows, scores).tolist() == [2, 2, 4, 1]


def test_another_runs_export_is_refused(by_hand, tmp_path: Path):
    export = by_hand()
    counts = {"sessions": 9, "plays": 90, "tracks": 30}
    hashes = {"vocabulary_hash": "0" * 64, "rows_hash": "0" * 64}
    record = RunRecord(recipe="best", ranks=1, counts=counts, rows=30, versions={}, **hashes)
    run = RunDirectory(tmp_path / "run", config_of(tmp_path, True), record)
    with pytest.raises(UserError, match="has other tracks in its rows than .*run: give the run that it was exported"):
        open_exported(export, "auto", run)
    run.record = record.model_copy(update={"rows_hash": OpenExport.open(export).manifest.vocabulary_hash})
    assert isinstance(open_exported(export, "auto", run)[1], ExactSearch)
    with pytest.raises(UserError, match="has no index"):
        open_exported(export, "index", run)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"export": Path("x")}, "--export recommends from the whole catalogue: give --protocol full"),
        ({"protocol": "full", "search": "exact"}, "--search exact applies to an export: name it by --export"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        EvaluateRunConfig("run", **options)
