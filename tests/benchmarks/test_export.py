"""The run that `export` makes is a real one: its export holds the table; the report; refusals; nothing stays behind."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness.config import SEED, ExportBenchmarkConfig
from skipwise.benchmarks.harness.untrained_run import make_run
from skipwise.common.distributed import process_group
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from tests.ranks import run_on_ranks
from tests.support.tables import initial_rows


def exported(folder: Path) -> None:
    made = make_run(folder, num_tracks=70, dim=12)
    write_export(ExportConfig(str(made.path), folder / "export"))


@pytest.mark.ranks
def test_the_run_exports_its_table(tmp_path: Path):
    run_on_ranks(tmp_path, 2, exported, tmp_path)
    table = pq.read_table(tmp_path / "export" / "embeddings")
    rows = torch.from_numpy(table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 12).copy())
    bound = json.loads((tmp_path / "export" / "manifest.json").read_text())["config"]["table"]["init_bound"]
    assert torch.equal(rows, initial_rows(70, 12, bound, SEED))
    assert table["track_id"].to_pylist() == [f"t{row:08}" for row in range(70)]


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    options = "--tracks 90 --dim 8 --rounds 2 --warmup 0".split()
    with process_group():
        run(["export", *options, "--output", str(tmp_path / "out")])
    (report,) = (tmp_path / "out").glob("*.json")
    content = json.loads(report.read_text())
    for name in ("export", "write", "check"):
        of = content[name]
        assert of["gb_per_s"] > 0 and of["ratio"] == pytest.approx(of["gb_per_s"] / of["plain_gb_per_s"])
    assert {name: len(values) for name, values in content["samples"].items()} == {"ratio": 2, "write_ratio": 2}
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(("field", "value"), [("dim", 6), ("tracks", 12), ("rounds", 0), ("warmup", -1)])
def test_refusals_name_the_flag(field: str, value: int):
    with pytest.raises(ValueError, match=f"--{field}"):
        ExportBenchmarkConfig(**{field: value})
