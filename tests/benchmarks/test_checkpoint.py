"""The checkpoint benchmark on a small table: every figure there, and from the calls that it says."""

import json
from pathlib import Path

import pytest

from skipwise.benchmarks.checkpoint import measure
from skipwise.benchmarks.harness.benchmark_report import measure_and_write
from skipwise.benchmarks.harness.config import CheckpointBenchmarkConfig, ReportConfig


def test_every_figure_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = ReportConfig(output=str(tmp_path / "results"), json=str(tmp_path / "report.json"))
    measure_and_write(measure, CheckpointBenchmarkConfig(tracks=2000, dim=16, rounds=2, report=report))
    figures = json.loads((tmp_path / "report.json").read_text())
    # The table, a number of state a row, and the encoder thrice.
    assert figures["bytes"] > 2000 * 17 * 4
    seconds = figures["seconds"]
    assert all(len(values) == 2 for values in seconds.values())
    for pause, whole in zip(seconds["pause"], seconds["write"], strict=True):
        assert 0 < pause < whole
    assert figures["pause_share"]["worst"] == pytest.approx(
        max(pause / whole for pause, whole in zip(seconds["pause"], seconds["write"], strict=True))
    )
    assert {path.name for path in tmp_path.iterdir()} == {"results", "report.json"}, "its temporary folder remains"
