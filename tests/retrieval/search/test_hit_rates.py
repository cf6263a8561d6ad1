"""What an export recommends, counted by the rules of served: as a plain recount, session by session."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipwise.common.errors import UserError
from skipwise.components.evaluate import EvaluateRunConfig
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.hit_rates import measure_hit_rates, open_exported
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.training.build import HeldOut
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import as_json
from skipwise.training.run.directory import RunDirectory, RunRecord
from tests.conftest import random_sessions
from tests.retrieval.search.exports import DIM

TRACKS = 60
HELD_OUT = {"validation": 2, "test": 1}


def config_of(path: Path) -> RunConfig:
    config = RECIPES["best-skip-blind"]()
    return replace(
        config,
        data=replace(config.data, path=str(path), batch_size=16, lanes=4, workers=0),
        evaluate=replace(config.evaluate, batch_size=16),
    )


def counted(table: np.ndarray, sessions: list, split: str) -> dict[str, float]:
    """The sum of the last 20 tracks is the query; of equal scores, the lower row is recommended first."""
    places = []
    for tracks, _ in sessions:
        at = len(tracks) - HELD_OUT[split]
        if at < 1:
            continue
        target, heard = tracks[at], tracks[:at]
        scores = table.astype(np.float64) @ table[heard[-20:]].astype(np.float64).sum(axis=0)
        listed = sorted(set(range(len(table))) - set(heard), key=lambda row: (-scores[row], row))[:20]
        places.append(listed.index(target) + 1 if target in listed else None)
    found = {f"hr@{k}": float(np.mean([place is not None and place <= k for place in places])) for k in (1, 5, 10, 20)}
    gains = [1 / math.log2(place + 1) if place and place <= 10 else 0 for place in places]
    return found | {"ndcg@10": float(np.mean(gains)), "targets": len(places)}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_as_a_plain_recount(split: str, make_dataset: Callable[..., Path], by_hand):
    sessions = random_sessions(80, TRACKS, longest=24) + [([3], [0]), ([5, 9], [0, 1]), ([7, 8, 7], [0, 0, 0])]
    data = make_dataset(sessions, TRACKS)
    table = np.random.default_rng(0).integers(-3, 4, (TRACKS, DIM)).astype(np.float32)
    opened = OpenExport.open(by_hand(table, table[:2]))
    config, store = config_of(data), SessionStore(str(data))
    held_out = HeldOut.of(config.evaluate, store, split)
    found = measure_hit_rates(config, held_out, opened, ExactSearch(opened.vectors), split)
    assert found == pytest.approx(counted(table, sessions, split))
    assert 0 < found["hr@10"] < found["hr@20"] < 1


def test_another_runs_export_is_refused(by_hand, tmp_path: Path):
    export = by_hand()
    counts = {"sessions": 9, "plays": 90, "tracks": 30}
    hashes = {"vocabulary_hash": "0" * 64, "rows_hash": "0" * 64}
    record = RunRecord(recipe="best", ranks=1, counts=counts, rows=30, versions={}, **hashes)
    run = RunDirectory(tmp_path / "run", config_of(tmp_path), record)
    with pytest.raises(UserError, match="has other tracks in its rows than .*run: give the run that it was exported"):
        open_exported(export, "auto", run)
    run.record = record.model_copy(update={"rows_hash": OpenExport.open(export).manifest.vocabulary_hash})
    assert isinstance(open_exported(export, "auto", run)[1], ExactSearch)
    manifest = ExportManifest.read(export)
    seed = as_json(run.config)["train"]["seed"]
    for config, refused in (
        (as_json(run.config) | {"run_dir": "before/it/moved"}, False),
        (manifest.config | {"train": {"seed": seed, "field_of_an_older_version": 1}}, False),
        (manifest.config | {"train": {"seed": seed + 1}}, True),
    ):
        manifest.model_copy(update={"config": config}).write(export)
        if refused:
            with pytest.raises(UserError, match="was exported from a run of another config than .*run: give the run"):
                open_exported(export, "auto", run)
        else:
            assert open_exported(export, "auto", run)
    manifest.write(export)
    with pytest.raises(UserError, match="has no index"):
        open_exported(export, "index", run)


def test_a_search_without_an_export_is_refused():
    with pytest.raises(ValueError, match="--search exact applies to an export: name it by --export"):
        EvaluateRunConfig("run", search="exact")
