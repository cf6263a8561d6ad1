"""Reads one run or two and writes the HTML page on them."""

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from skipwise.common.outputs import atomic_output, refuse_existing
from skipwise.studies.run_report import foreseen_section, result_sections, run_sections
from skipwise.studies.run_report.missing_parts import missing
from skipwise.studies.run_report.reported_run import read_run
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.metrics import METRICS

_GENERATOR = b'<meta name="generator" content="skipwise report">'
"""As in templates/report.html: marks a page that may be overwritten."""

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def write_report(
    paths: tuple[str, ...], output: Path, overwrite: bool, config_of: Callable[[str], RunConfig | None]
) -> None:
    """Writes `output`; the same runs give the same bytes. Raises `UserError` for a run that cannot be read.

    `config_of`: the config of a recipe by name, None where there is none.
    """
    refuse_existing(output, overwrite, is_report)  # before the work
    runs = [read_run(path, label, config_of) for path, label in zip(paths, "AB", strict=False)]
    content = TEMPLATES.get_template("report.html").render(
        title="Report of " + " and ".join(run.directory.path.name or str(run.directory.path) for run in runs),
        runs=runs,
        run_names=[f"run {run.label}" for run in runs],
        metrics=[metric.upper() for metric in METRICS],
        candidates=result_sections.CANDIDATES,
        facts=run_sections.facts(runs),
        settings=run_sections.settings(runs),
        hit_rates=result_sections.hit_rates(runs),
        limits=result_sections.limits(runs),
        differences=result_sections.difference_table(runs) if len(runs) == 2 else None,
        curves=run_sections.curves(runs),
        groups=result_sections.groups(runs),
        skips=result_sections.skips(runs),
        foreseen=foreseen_section.foreseen(runs),
        table_maps=run_sections.table_maps(runs),
        throughput=run_sections.throughput(runs),
        missing=missing(runs),
    )
    with atomic_output(output, overwrite, is_report) as scratch:
        (scratch / "result").write_text(content, encoding="utf-8", errors="backslashreplace")


def is_report(file: Path) -> bool:
    """Whether `file` is a page that this command wrote."""
    if not file.is_file():
        return False
    with open(file, "rb") as stream:
        return _GENERATOR in stream.read(1024)
