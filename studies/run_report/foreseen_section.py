"""What the report shows of the keep head and of pairs: figures with intervals, and how far P(kept) can be trusted."""

import numpy as np

from skipwise.studies.run_report import charts
from skipwise.studies.run_report.reported_run import ReportedRun
from skipwise.studies.run_report.result_sections import not_comparable
from skipwise.studies.run_report.run_sections import Picture, Rows
from skipwise.studies.skip_figures import LABELS, difference, figure, over_seeds, reliability
from skipwise.training.config import PROTOCOLS, Protocol


def foreseen(runs: list[ReportedRun]) -> tuple[Rows, list[Picture]]:
    """A row a figure, with a column a run and for two runs the difference; and reliability."""
    protocols, values = _measured(runs)
    alike = len(runs) == 2 and all(protocols) and not not_comparable(runs[0], runs[1], protocols[0] or "served")
    rows: Rows = []
    for name, label in LABELS.items():
        if not any(name in one for one in values):
            continue
        cells = [_cell(one.get(name)) for one in values]
        if len(runs) == 2:
            both = alike and all(name in one for one in values)
            cells.append(_difference(difference(values[1][name], values[0][name])) if both else "none")
        rows.append([label, *cells])
    curves = [
        (f"run {run.label}" if len(runs) > 1 else "", number, reliability(run.ranks[by, "test"]))
        for number, (run, by) in enumerate(zip(runs, protocols, strict=True))
        if by and "next_skip_ece" in values[number]
    ]
    images = []
    if curves:
        alt = "; ".join(
            f"{label} ".lstrip() + ", ".join(f"{point.told:.2f}: {point.kept:.2f}" for point in points)
            for label, _, points in curves
        )
        caption = "Reliability: of the plays that are said to be kept with so much probability, the share that was."
        images.append(Picture(charts.reliability(curves), caption, f"P(kept) and the share kept. {alt}"))
    return rows, images


def _measured_by(run: ReportedRun) -> Protocol | None:
    """A protocol by which the test was measured; what records say of skips is the same for each."""
    return next((protocol for protocol in PROTOCOLS if (protocol, "test") in run.ranks), None)


def _measured(runs: list[ReportedRun]) -> tuple[list[Protocol | None], list[dict[str, np.ndarray]]]:
    """By which protocol each run was measured, and what that says of skips."""
    protocols = [_measured_by(run) for run in runs]
    return protocols, [
        over_seeds([run.ranks[by, "test"]]) if by else {} for run, by in zip(runs, protocols, strict=True)
    ]


def not_foreseen(runs: list[ReportedRun]) -> list[str]:
    """Which figures each measured run lacks, and why."""
    lines = []
    for run, by, found in zip(runs, *_measured(runs), strict=True):
        if by is None:
            continue
        if "next_skip_accuracy" not in found:
            lines.append(
                f"Run {run.label}: its records have no P(kept): "
                + (
                    f"they are an older version's; evaluate --run {run.directory.path} measures it."
                    if run.directory.config.loss.keep
                    else "it has no keep head (--loss.keep)."
                )
            )
        if "pairs_in_order" not in found:
            sessions = run.ranks[by, "test"].session
            lines.append(
                f"Run {run.label}: its records have no pairs: "
                + (
                    "each session has one target."
                    if len(np.unique(sessions)) == len(sessions)
                    else f"they are an older version's, or nothing kept followed a skip; evaluate --run "
                    f"{run.directory.path} measures it again."
                )
            )
    return lines


def _cell(values_SM: np.ndarray | None) -> str:
    if values_SM is None:
        return "none"
    found = figure(values_SM)
    return f"{found['mean']:.4f}\n{found['low']:.3f} to {found['high']:.3f}"


def _difference(found: list[float]) -> str:
    mean, low, high = found
    return f"{mean:+.4f}{'' if low <= 0 <= high else ' *'}\n{low:+.4f} to {high:+.4f}"
