"""`report --run RUN [--run RUN2] --output report.html`: one HTML page on a run, or on two side by side."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import UseAppendAction

from skipwise.common.errors import UserError


@dataclass(frozen=True)
class ReportConfig:
    """Which runs, and where the page goes."""

    run: UseAppendAction[tuple[tuple[str, ...], ...]]
    """Run directory that train wrote; a second one is set beside it: `--run A --run B` or `--run A B`."""
    output: Path = Path("report.html")
    """The page to write: one self-contained file."""
    overwrite: bool = False
    """Replace a report that stands at `output`."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.runs) <= 2:
            raise ValueError(f"--run must name one run or two, not {len(self.runs)}")

    @property
    def runs(self) -> tuple[str, ...]:
        """One or two directories."""
        return tuple(name for names in self.run for name in names)


def report(config: ReportConfig) -> None:
    """Writes the page; trains and measures nothing."""
    from skipwise.components.recipes import named_recipe
    from skipwise.studies.run_report.report_page import write_report
    from skipwise.training.config import RunConfig

    def config_of(recipe: str) -> RunConfig | None:
        try:
            return named_recipe(recipe)
        except UserError:
            return None

    write_report(config.runs, config.output, config.overwrite, config_of)
    print(f"wrote {config.output}")
