"""Say whether a dataset's skips predict what will be skipped next, or, of runs, whether learning from them pays.

Trains nothing. Runs are named together: one without skips, one or more with them, and controls (the same with
--data.skip-flags shuffled), each at the same seeds; they may differ in what they do with skips alone. With --dial,
each run with a keep head, controls too, is there a second time as `evaluate --dial` has measured it.

Examples:
  skipwise audit --data data/mine --output audits/mine
  skipwise audit --run runs/blind runs/skips runs/shuffled --dial 0.5 --output audits/runs
"""

from dataclasses import dataclass

from skipwise.components.cli import RunPaths, run_paths
from skipwise.retrieval.recommend.config import Dial, check_dial


@dataclass(frozen=True)
class AuditConfig:
    """What is audited."""

    data: str | None = None
    """Dataset directory, as `prepare` writes it."""
    run: RunPaths = ()
    """Run directories that train wrote, two or more: `--run A --run B` or `--run A B`."""
    dial: tuple[Dial, ...] = ()
    """Of --run: settings of the dial that `evaluate --dial` has measured each run with a keep head at."""
    output: str | None = None
    """Directory of `audit.md`, `audit.json` and `audit.png`, or of runs `runs.md`, `runs.json` and `runs.png`; without
    it the sentences are printed alone."""

    def __post_init__(self) -> None:
        if bool(run_paths(self.run)) == (self.data is not None):
            raise ValueError("--data must name a dataset directory, or --run two run directories or more, and not both")
        if len(run_paths(self.run)) == 1:
            raise ValueError("--run must name two runs or more: one that uses skips and one that does not")
        if self.dial and not self.run:
            raise ValueError("--dial applies to runs: name them by --run")
        for dial in self.dial:
            if check_dial(dial) == "auto":
                raise ValueError("--dial auto may differ from run to run, and runs are compared at one: give a number")


def audit(config: AuditConfig) -> None:
    """Prints the sentences and writes the files."""
    from skipwise.common.work_folders import worked_on

    with worked_on(config.output or "", "--output") as folder:
        output = folder or None
        if config.data is not None:
            from skipwise.studies.audit.run_audit import run_audit

            run_audit(config.data, output)
        else:
            from skipwise.studies.audit.audit_runs import audit_runs

            audit_runs(run_paths(config.run), output, [float(dial) for dial in config.dial])
