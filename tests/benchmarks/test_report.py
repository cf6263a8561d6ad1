"""A report's files: the same content as asked for, and nothing half-written."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from skipwise.benchmarks.harness.benchmark_report import Report, table, write
from skipwise.benchmarks.harness.config import ReportConfig


@dataclass(frozen=True)
class Options:
    batch: int = 256
    report: ReportConfig = field(default_factory=ReportConfig)


def a_report(**changes) -> Report:
    return Report(
        **{
            "name": "thing",
            "title": "A thing",
            "figures": {"ours": {"sessions_per_s": 2.0}, "ratio": 1.5},
            "samples": {"ratio": [1.0, 2.0]},
            "header": ["side", "sessions/s"],
            "rows": [["ours", "2"]],
            "notes": ["A note."],
        }
        | changes
    )


def test_table_is_aligned():
    assert table(["a", "bb"], [["ccc", "d"]]) == ["| a   | bb |", "|-----|----|", "| ccc | d  |"]


def test_json_and_page(tmp_path: Path):
    write(a_report(), Options(report=ReportConfig(str(tmp_path / "new"), str(tmp_path / "copy.json"))))
    assert str(tmp_path) not in (tmp_path / "copy.json").read_text(), "a report names no folder of its machine"
    names = sorted(file.suffix for file in (tmp_path / "new").iterdir())
    assert names == [".json", ".md", ".png"]
    content = json.loads((tmp_path / "copy.json").read_text())
    assert content == json.loads(next((tmp_path / "new").glob("*-thing.json")).read_text())
    assert content["ours"] == {"sessions_per_s": 2.0} and content["ratio"] == 1.5
    assert content["samples"] == {"ratio": [1.0, 2.0]} and content["config"]["batch"] == 256
    assert content["made"]["ranks"] == 1 and content["made"]["peak_bytes"][0] > 1 << 20
    page = next((tmp_path / "new").glob("*.md")).read_text()
    assert "| ours | 2          |" in page and "A note." in page


@pytest.mark.parametrize("draw", [None, lambda figure: figure.subplots().plot([1, 2])])
def test_picture_is_shown(draw, tmp_path: Path):
    write(a_report(draw=draw), Options(report=ReportConfig(str(tmp_path))))
    picture = next(tmp_path.glob("*.png"))
    assert f"({picture.name})" in next(tmp_path.glob("*.md")).read_text()


def test_a_failed_picture_leaves_nothing(tmp_path: Path):
    def draw(figure):
        raise RuntimeError("no ink")

    with pytest.raises(RuntimeError, match="no ink"):
        write(a_report(draw=draw), Options(report=ReportConfig(str(tmp_path))))
    assert not list(tmp_path.iterdir())
