"""`show --run RUN`: the HR table of a finished run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShowConfig:
    """Which run to show."""

    run: str
    """Run directory that train wrote."""


def show(config: ShowConfig) -> None:
    """Prints the table from `RUN/metrics.json`; trains and computes nothing."""
    from training.report import hit_rate_table
    from training.run import RunDirectory, read_json

    run = RunDirectory.open(config.run)
    print(hit_rate_table(read_json(run.path / "metrics.json", "the metrics of a finished run"), run.config))
