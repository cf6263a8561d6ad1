"""Gathers one run or two and writes the page about them, at one blow."""

from collections.abc import Callable
from pathlib import Path

from skipwise.common.outputs import atomic_output, refuse_existing
from skipwise.studies.run_report import results, sections
from skipwise.studies.run_report.page import GENERATOR, page
from skipwise.studies.run_report.runs import ReportedRun, read_run
from skipwise.training.config import RunConfig

_SECTIONS: tuple[tuple[str, str, Callable[[list[ReportedRun]], str]], ...] = (
    ("run", "What was trained", sections.facts),
    ("hit-rates", "Hit rates", results.hit_rates),
    ("curves", "Curves", sections.curves),
    ("groups", "Groups of sessions", results.breakdowns),
    ("skips", "Where skipped tracks rank", results.skips),
    ("map", "Map of the track table", sections.table_map),
    ("throughput", "Throughput", sections.throughput),
    ("config", "Whole config", sections.config),
)


def write_report(
    paths: tuple[str, ...], output: Path, overwrite: bool, default_of: Callable[[str], RunConfig | None]
) -> None:
    """Writes `output`; the same runs give the same bytes. Raises `UserError` for a run that cannot be read.

    `default_of`: the config of a recipe by name, None where there is none.
    """
    refuse_existing(output, overwrite, is_report)  # before the work
    runs = [read_run(path, label, default_of) for path, label in zip(paths, "AB", strict=False)]
    names = " and ".join(run.directory.path.name or str(run.directory.path) for run in runs)
    content = page(f"Report of {names}", [(anchor, heading, write(runs)) for anchor, heading, write in _SECTIONS])
    with atomic_output(output, overwrite, is_report) as scratch:
        (scratch / "result").write_text(content, encoding="utf-8", errors="backslashreplace")


def is_report(file: Path) -> bool:
    """Whether a page that this command wrote stands there."""
    if not file.is_file():
        return False
    with open(file, "rb") as stream:
        return GENERATOR.encode() in stream.read(1024)
