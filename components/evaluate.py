"""Measure a run's best weights again, on any number of ranks.

With --export, also measures what that export recommends, by the exact search or by its index.

Example:
  skipwise evaluate --run runs/best-001 --protocol full
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class EvaluateRunConfig:
    """What to measure; how is the run's own config."""

    run: str
    """Run directory that train wrote."""
    protocol: Literal["uniform", "full"] = "uniform"
    """Rank the target among the run's uniform candidates, or exactly in the whole catalogue."""
    export: Path | None = None
    """An export of the run, whose recommendations are measured beside the run's own; needs `--protocol full`."""
    search: Literal["auto", "exact", "index"] = "auto"
    """How the export is searched: exactly, by the index it has, or (auto) by that where it has one."""

    def __post_init__(self) -> None:
        if self.export is not None and self.protocol != "full":
            raise ValueError("--export recommends from the whole catalogue: give --protocol full as well")
        if self.export is None and self.search != "auto":
            raise ValueError(f"--search {self.search} applies to an export: name it by --export")


def evaluate(config: EvaluateRunConfig) -> None:
    """Writes the protocol's section of `RUN/metrics.json` and prints the table, and the export's below it."""
    from skipwise.common.distributed import logger, process_group
    from skipwise.retrieval.hit_rates import compared_with, open_exported
    from skipwise.training.evaluation.evaluator import evaluate_run
    from skipwise.training.evaluation.hit_rate_table import hit_rate_table
    from skipwise.training.run.directory import RunDirectory

    with process_group():
        run = RunDirectory.open(config.run)
        exported = open_exported(config.export, config.search, run) if config.export else None
        metrics = evaluate_run(run, config.protocol)
        logger.info(hit_rate_table({config.protocol: metrics}, run.config))
        if exported:
            logger.info(compared_with(metrics, run, run.open_store(), *exported))
