"""Write one HTML page on a run, or on two side by side; nothing is trained or measured.

Example:
  skipwise report --run runs/best-001 --run runs/unidir-001 --output report.html
"""

from dataclasses import dataclass
from pathlib import Path

from skipwise.common.stores import Place
from skipwise.components.cli import RunPaths, run_paths


@dataclass(frozen=True)
class ReportConfig:
    """Which runs, and where the page goes."""

    run: RunPaths
    """Run directory that train wrote; a second one is set beside it: `--run A --run B` or `--run A B`."""
    output: Path = Path("report.html")
    """The page to write: one self-contained file."""
    overwrite: bool = False
    """Replace a report at --output."""

    def __post_init__(self) -> None:
        if not 1 <= len(run_paths(self.run)) <= 2:
            raise ValueError(f"--run must name one run or two, not {len(run_paths(self.run))}")


def report(config: ReportConfig) -> None:
    """Writes the page."""
    from skipwise.components.recipes import find_recipe
    from skipwise.studies.run_report.report_page import write_report

    write_report(run_paths(config.run), config.output, config.overwrite, find_recipe)
    print(f"wrote {Place.of(config.output) or config.output}")
