"""`show --run RUN`: the HR table of a finished run."""

from dataclasses import dataclass

from skipwise.common.errors import UserError


@dataclass(frozen=True)
class ShowConfig:
    """Which run to show."""

    run: str
    """Run directory that train wrote."""


def show(config: ShowConfig) -> None:
    """Prints the table from `RUN/metrics.json`; trains and computes nothing."""
    from skipwise.training.evaluation.hit_rate_table import hit_rate_table
    from skipwise.training.run.directory import RunDirectory, read_metrics

    run = RunDirectory.open(config.run)
    file = run.path / "metrics.json"
    metrics = read_metrics(file, "the metrics of a finished run")
    try:
        table = hit_rate_table(metrics, run.config)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{file} lacks figures of a finished run ({error}): evaluate it again") from error
    print(table)
