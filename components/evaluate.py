"""Measure a run's best weights again, on any number of ranks.

With --data, on the sessions of another dataset that was prepared with the run's vocabulary. With --export, also
measures what that export recommends, by the exact search or by its index. With --dial, measures the test at other
settings of the dial instead, beside the run's own.

Examples:
  skipwise evaluate --run runs/best-001 --protocol full
  skipwise evaluate --run runs/skips-001 --dial auto 0.5 1
  skipwise evaluate --run runs/best-001 --data data/next-week --positions last
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skipwise.retrieval.recommend.config import Dial, check_dial

_Protocols = tuple[Literal["served", "full", "paper"], ...]
_PROTOCOLS: _Protocols = ("served", "full", "paper")


@dataclass(frozen=True)
class EvaluateRunConfig:
    """What to measure; how is the run's own config."""

    run: str
    """Run directory that train wrote."""
    protocol: _Protocols = _PROTOCOLS
    """Rank targets among what would be recommended, the whole catalogue, or the run's uniform candidates."""
    data: str | None = None
    """Other sessions to measure in place of the run's held-out ones: a dataset directory with the run's vocabulary."""
    positions: Literal["all", "last"] | None = None
    """Targets of a session that training has not seen: every track but its first, or its last; by default as the run's
    config says."""
    export: Path | None = None
    """An export of the run, whose recommendations are measured beside the run's own, by the rules of served."""
    search: Literal["auto", "exact", "index"] = "auto"
    """How the export is searched: exactly, by the index it has, or (auto) by that where it has one."""
    dial: tuple[Dial, ...] = ()
    """Settings of the dial, for a run with a keep head, at which the test is ranked among what would be recommended;
    `auto`: the one chosen on validation, or that of --export, which is then not measured itself."""

    baselines: bool = False
    """Also measure popularity, Markov, item-kNN, V-SKNN and STAN on the run's test, which report shows beside it."""

    def __post_init__(self) -> None:
        if not self.protocol:
            raise ValueError("--protocol names none: give at least one of served, full, paper")
        if self.export is None and self.search != "auto":
            raise ValueError(f"--search {self.search} applies to an export: name it by --export")
        if self.baselines and (self.data or self.positions or self.dial):
            raise ValueError("--baselines measures the run's own test: leave --data, --positions and --dial out")
        for dial in self.dial:
            check_dial(dial)
        if self.dial and (self.protocol not in (_PROTOCOLS, ("served",)) or self.search != "auto"):
            raise ValueError("--dial measures what would be recommended, exactly: leave --protocol and --search out")
        if self.dial and self.export and "auto" not in self.dial:
            raise ValueError("--dial takes auto alone from --export: leave --export out, or give --dial auto")


def evaluate(config: EvaluateRunConfig) -> Mapping[Any, Mapping[Any, Any]]:
    """Prints the table, and the export's below it.

    Writes the run's own splits to `RUN/metrics.json`, where they are measured as its config says.
    Returns the metrics by protocol and split, or with `--dial` the figures by setting.
    """
    from skipwise.common.distributed import logger, on_all_ranks, process_group, rank
    from skipwise.common.mirrors import upload
    from skipwise.retrieval.hit_rates import compared_with, open_exported
    from skipwise.studies.baselines.measuring import measure_missing
    from skipwise.studies.dial_evaluation import evaluate_dials
    from skipwise.training.config import PROTOCOLS
    from skipwise.training.evaluation.evaluator import evaluate_run
    from skipwise.training.evaluation.hit_rate_table import hit_rate_table
    from skipwise.training.run.directory import RunDirectory

    with process_group():
        run = RunDirectory.open(config.run)
        exported = open_exported(config.export, config.search, run) if config.export else None

        def store() -> None:
            on_all_ranks(lambda: upload(run.path) if rank() == 0 else None)

        if config.dial:
            figures = evaluate_dials(run, config.dial, config.data, config.positions, _auto(exported))
            store()
            return {"dial": figures}
        wanted = {*config.protocol} | ({"served"} if exported else set())
        protocols = tuple(protocol for protocol in PROTOCOLS if protocol in wanted)
        measured = evaluate_run(run, protocols, config.data, config.positions)
        store()
        for split, held_out in measured.held_out.items():
            count = measured.metrics[protocols[0]][split]["sessions"]
            logger.info(f"{split} of {run.path}: measured on {count:,} sessions of {held_out.sessions.path}")
        logger.info(hit_rate_table(measured.metrics, measured.config))
        if exported:
            logger.info(compared_with(measured.metrics["served"], measured.config, measured.held_out, *exported))
        if config.baselines:
            measure_missing(run)
        return measured.metrics


def _auto(exported: Any) -> float | None:
    """The dial that an export of a keep head has chosen."""
    keep = exported[0].manifest.keep if exported else None
    return keep.dial if keep else None
