"""Print the hit rates of a run or how far it is, several runs side by side, or what a dataset holds; measures nothing.

Example:
  skipwise show --run runs/best-001
  skipwise show --run runs/best-001 --run runs/unidir-001
  skipwise show --data data/log
"""

from dataclasses import dataclass

from skipwise.common.errors import UserError
from skipwise.components.cli import RunPaths, run_paths


@dataclass(frozen=True)
class ShowConfig:
    """What to show."""

    run: RunPaths = ()
    """Run directory that train wrote; more of them are compared with the first: `--run A --run B` or `--run A B`."""
    data: str | None = None
    """Dataset directory that prepare wrote: what it holds, how it is split, and what was left out."""

    def __post_init__(self) -> None:
        if bool(run_paths(self.run)) == (self.data is not None):
            raise ValueError("--run must name at least one run directory, or --data a dataset directory, and not both")


def show(config: ShowConfig) -> None:
    """Prints the table from `RUN/metrics.json`, an unfinished run's progress, the comparison, or the manifest."""
    from skipwise.common.mirrors import local
    from skipwise.datapipes.manifest import MANIFEST, Manifest
    from skipwise.studies.curves import progress_so_far
    from skipwise.studies.run_comparison import compare_runs
    from skipwise.training.evaluation.hit_rate_table import hit_rate_table
    from skipwise.training.run.directory import RunDirectory, read_metrics

    if config.data is not None:
        print(f"{config.data}\n{Manifest.read(local(config.data, lambda name: name == MANIFEST)).description()}")
        return
    runs = [RunDirectory.open(path) for path in run_paths(config.run)]
    if len(runs) > 1:
        print(compare_runs(runs))
        return
    file = runs[0].path / "metrics.json"
    if not file.exists():
        print(progress_so_far(runs[0]))
        return
    metrics = read_metrics(file, "the metrics of a finished run")
    try:
        table = hit_rate_table(metrics, runs[0].config)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{file} lacks figures of a finished run ({error}): train again") from error
    print(table)
