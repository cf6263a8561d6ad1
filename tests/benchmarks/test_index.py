"""The clustered table is what it says; the report's figures; refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness.config import IndexBenchmarkConfig
from skipwise.benchmarks.harness.synthetic import clustered
from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError


def test_the_table_is_clustered_and_its_norms_vary():
    table, queries = clustered(num_tracks=2000, num_queries=50, dim=32)
    norms = np.linalg.norm(table, axis=1)
    assert norms.min() == pytest.approx(2, abs=0.01) and norms.max() == pytest.approx(2 + 0.2 * np.log(2000), abs=0.01)
    unit = table / norms[:, None]
    nearest = np.sort(unit @ unit.T, axis=1)[:, -2]
    assert nearest.mean() > 0.6 and abs((unit @ unit.T).mean()) < 0.1
    assert np.allclose(np.linalg.norm(queries, axis=1), 5, atol=1e-3)
    best = np.argsort(-(queries @ table.T), axis=1)[:, :10]
    by_cosine = np.argsort(-(queries @ unit.T), axis=1)[:, :10]
    assert (best != by_cosine).any()


def test_report(tmp_path: Path):
    options = "--tracks 1000 --dim 8 --queries 20 --k 10 --rounds 2 --warmup 0 --threads 1".split()
    with process_group():
        run(["index", *options, "--output", str(tmp_path)])
    (report,) = tmp_path.glob("*.json")
    content = json.loads(report.read_text())
    for kind in ("faiss flat", "ivfpq", "hnsw"):
        of = content[kind]
        assert of["ratio"] == pytest.approx(of["queries_per_s"] / of["exact_queries_per_s"])
        assert len(content["samples"][f"{kind}_ratio"]) == 2 and of["index_bytes"] > 1000
    assert content["faiss flat"]["recall_at_10"] == 1 and content["hnsw"]["search"]["efSearch"] >= 10


def test_a_table_that_is_too_small_for_ivfpq_is_refused():
    with pytest.raises(UserError, match="--tracks 600 must be at least"):
        run(["index", "--tracks", "600"])


@pytest.mark.parametrize(("field", "value"), [("dim", 6), ("tracks", 0), ("queries", 0), ("k", 0), ("threads", -1)])
def test_refusals_name_the_flag(field: str, value):
    with pytest.raises(ValueError, match=f"--{field}"):
        IndexBenchmarkConfig(**{field: value})
