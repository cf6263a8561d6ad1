"""The whole way, train, export, index, recommend: the run's own HR@10 of served comes out again, either direction."""

import shutil
from pathlib import Path

import pytest

from skipwise.components.index import index
from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.hit_rates import compared_with, measure_hit_rates, open_exported
from skipwise.retrieval.search.config import IndexConfig
from skipwise.training.build import HeldOut
from skipwise.training.evaluation.evaluator import measurable
from skipwise.training.run.directory import RunDirectory
from tests.retrieval.conftest import DIRECTIONS


@pytest.mark.ranks
@pytest.mark.parametrize("direction", sorted(DIRECTIONS))
def test_the_runs_own_figures_come_out_again(folder: Path, direction: str, tmp_path: Path):
    run = RunDirectory.open(str(folder / direction))
    store = SessionStore(str(folder / "data"))
    export = Path(shutil.copytree(folder / f"{direction}-2", tmp_path / "export"))
    index(IndexConfig(export, kinds=("hnsw",), recall=0.9))
    names = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "targets")
    own_of = {split: run.metrics()["served"][split] for split in measurable(run.config)}
    held_out = {split: HeldOut.of(run.config.evaluate, store, split) for split in own_of}
    for split, own in own_of.items():
        found = measure_hit_rates(run.config, held_out[split], *open_exported(export, "exact", run), split)
        assert {name: found[name] for name in names} == pytest.approx({name: own[name] for name in names})
        indexed = measure_hit_rates(run.config, held_out[split], *open_exported(export, "index", run), split)
        assert indexed["hr@10"] == pytest.approx(own["hr@10"], abs=0.02)
    said = compared_with(own_of, run.config, held_out, *open_exported(export, "exact", run))
    assert "+0.00000" in said and "searched exactly" in said
