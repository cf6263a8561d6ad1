"""What the report does not show, and why: each reason once."""

from skipwise.studies.run_report.breakdowns import BREAKDOWNS
from skipwise.studies.run_report.foreseen_section import not_foreseen
from skipwise.studies.run_report.reported_run import ReportedRun
from skipwise.training.config import PROTOCOLS


def missing(runs: list[ReportedRun]) -> list[str]:
    """A sentence for each part that a run lacks."""
    lines = [line for run in runs for line in _of_run(run)]
    lines += not_foreseen(runs) + [line for breakdown in BREAKDOWNS for line in breakdown.missing(runs)]
    return list(dict.fromkeys(lines))


def _of_run(run: ReportedRun) -> list[str]:
    path, lines = run.directory.path, []
    unmeasured = [protocol for protocol in PROTOCOLS if (protocol, "test") not in run.ranks]
    if unmeasured:
        by, options = f" by {' and '.join(unmeasured)}", f" --protocol {' '.join(unmeasured)}"
        if len(unmeasured) == len(PROTOCOLS):
            by = options = ""
        lines.append(f"Run {run.label}: the test has not been measured{by}; evaluate --run {path}{options} does it.")
    if len(unmeasured) < len(PROTOCOLS):
        if run.store and not run.baselines:
            lines.append(
                f"Run {run.label}: no baselines have been measured; evaluate --run {path} --baselines does it."
            )
        if not any(ranks.skipped.any() for (_, split), ranks in run.ranks.items() if split == "test"):
            lines.append(f"Run {run.label}: no test target was skipped.")
    if not len(run.curves["train"]["step"]):
        lines.append(f"Run {run.label}: metrics.jsonl has no line of training steps.")
    if not len(run.curves["validation"]["epoch"]):
        lines.append(f"Run {run.label}: no epoch has been validated.")
    if run.sample is None:
        lines.append(f"Run {run.label}: there are no best weights yet.")
    return lines
