"""What the report shows of the measurements: hit rates, differences, groups of targets, skipped tracks.

A cell's second line, after a line break, is set small. Shape legend: N targets, M sessions.
"""

import numpy as np

from skipwise.studies.run_comparison import refit_note
from skipwise.studies.run_report import charts
from skipwise.studies.run_report.breakdowns import BREAKDOWNS, METRIC, Breakdown, Series
from skipwise.studies.run_report.reported_run import ReportedRun
from skipwise.studies.run_report.run_sections import Picture, Rows
from skipwise.studies.statistics import Difference, gap, interval, paired, per_session
from skipwise.training.config import PROTOCOLS, Protocol
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.evaluation.records import TargetRanks

FIGURES = {name: name.upper() for name in METRICS} | {
    "skip hr@10": "HR@10 of skipped",
    "skip rank": "percentile rank of skipped",
}
"""What two runs are compared by."""
_ALL = slice(None)
CANDIDATES = {
    "served": "among what is recommended, the whole catalogue without the session's tracks so far, so that a repeated "
    "target is a miss",
    "full": "in the whole catalogue",
    "paper": "among uniformly drawn tracks that the session does not contain",
}
"""What a protocol ranks a target among."""


def hit_rates(runs: list[ReportedRun]) -> dict[Protocol, tuple[str, Rows]]:
    """By protocol, how much the first row was measured on, which another row says if it differs; and a row for the test
    of each run and of each baseline, and for a run's validation.
    """
    found: dict[Protocol, tuple[str, Rows]] = {}
    for protocol in PROTOCOLS:
        named = [(f"run {run.label}", run.ranks.get((protocol, "test"))) for run in runs]
        named += _baselines(runs, protocol)
        named += [(f"run {run.label}, validation", run.ranks.get((protocol, "validation"))) for run in runs]
        sized = [(name, _size(ranks), ranks) for name, ranks in named if ranks]
        rows = [
            [name if size == sized[0][1] else f"{name}\n{size}", *(_mean(ranks, one) for one in METRICS)]
            for name, size, ranks in sized
        ]
        if rows:
            found[protocol] = sized[0][1], rows
    return found


def _baselines(runs: list[ReportedRun], protocol: Protocol) -> list[tuple[str, TargetRanks | None]]:
    """Each baseline once, or once a run where they were measured on other targets or fitted to other plays."""
    named: list[tuple[str, TargetRanks | None]] = []
    for label in dict.fromkeys(label for run in runs for label in run.baselines):
        found = [(run.label, ranks) for run in runs if (ranks := run.baselines.get(label, {}).get(protocol))]
        if len(found) == 2 and all(
            np.array_equal(getattr(found[0][1], name), getattr(found[1][1], name)) for name in ("session", "rank")
        ):
            del found[1]
        named += [(label if len(found) == 1 else f"{label}, as for run {run}", ranks) for run, ranks in found]
    return named


def _size(ranks: TargetRanks) -> str:
    return f"{len(ranks.session):,} targets of {len(np.unique(ranks.session)):,} sessions"


def limits(runs: list[ReportedRun]) -> list[str]:
    """What `served` allows on each run's test, and that a refit is not compared with its like."""
    lines: dict[str, list[str]] = {}
    for run in runs:
        if ranks := run.ranks.get(("served", "test")):
            line = (
                f"{ranks.repeated.sum():,} of the test's {len(ranks.session):,} targets were played before in their "
                f"session, so that no hit rate by served is above {1 - ranks.repeated.mean():.4f}."
            )
            lines.setdefault(line, []).append(f"run {run.label}")
    told = [f"R{' and '.join(labels)[1:]}: {line}" for line, labels in lines.items()]
    return told + refit_note([f"run {run.label}" for run in runs], [run.directory.config.train.refit for run in runs])


def _mean(ranks: TargetRanks, metric: str, chosen: np.ndarray | slice = _ALL) -> str:
    """The mean of a metric over the chosen targets, and its interval."""
    digits = 2 if metric == "percentile_rank" else 4
    values_M = per_session(ranks.values(metric)[chosen], ranks.session[chosen])
    low, high = interval(values_M)
    return f"{values_M.mean():.{digits}f}\n{low:.{min(digits, 3)}f} to {high:.{min(digits, 3)}f}"


def difference_table(runs: list[ReportedRun]) -> tuple[list[Protocol], Rows, list[str]]:
    """Run B less run A: protocols, a row a figure with a cell for each of them, and why others are left out."""
    found: dict[Protocol, dict[str, Difference]] = {}
    missing, (first, second) = [], runs
    for protocol in PROTOCOLS:
        if reason := not_comparable(first, second, protocol):
            missing.append(f"{protocol}: the runs cannot be compared session by session, because {reason}.")
            continue
        found[protocol] = differences(first.ranks[protocol, "test"], second.ranks[protocol, "test"])
    rows = [
        [label, *(_difference(one.get(name), name) for one in found.values())]
        for name, label in FIGURES.items()
        if any(name in one for one in found.values())
    ]
    return [*found], rows, missing


def not_comparable(first: ReportedRun, second: ReportedRun, protocol: Protocol) -> str:
    """Why two tests of a protocol cannot be compared session by session; empty where they can."""
    key = protocol, "test"
    for run in (first, second):
        if key not in run.ranks:
            return f"run {run.label} has not been measured"
    if first.directory.record.vocabulary_hash != second.directory.record.vocabulary_hash:
        return "the runs' data have other tracks"
    one, other = first.ranks[key], second.ranks[key]
    if not all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("session", "position", "target")):
        return "the runs were measured on other targets"
    mine, others = first.directory.config.evaluate, second.directory.config.evaluate
    same_draw = protocol != "paper" or (mine.candidates, mine.seed) == (others.candidates, others.seed)
    if not same_draw or not np.array_equal(one.candidates, other.candidates):
        return "the runs' targets were ranked among other candidates"
    return ""


def differences(first: TargetRanks, second: TargetRanks) -> dict[str, Difference]:
    """By metric, `second` less `first`, paired by session; metrics of skipped targets only where there are any."""

    def difference(metric: str, chosen: np.ndarray | slice = _ALL) -> Difference:
        pair = ((ranks.values(metric)[chosen], ranks.session[chosen]) for ranks in (second, first))
        return paired(*(per_session(*one) for one in pair))

    found = {metric: difference(metric) for metric in METRICS}
    if first.skipped.any():
        for name, metric in (("skip hr@10", "hr@10"), ("skip rank", "percentile_rank")):
            found[name] = difference(metric, first.skipped)
    return found


def _difference(found: Difference | None, name: str) -> str:
    if found is None:
        return "none"
    digits = 2 if name == "skip rank" else 4
    mean, low, high = (f"{value:+.{digits}f}" for value in (found.mean, found.low, found.high))
    mark = "" if found.low <= 0 <= found.high else " *"
    return f"{mean}{mark}\n{low} to {high}"


def groups(runs: list[ReportedRun]) -> list[tuple[Breakdown, list[Picture]]]:
    """The pictures of HR@10 by each breakdown, under every protocol, where there are any."""
    found = []
    for breakdown in BREAKDOWNS:
        images = []
        for protocol in PROTOCOLS:
            if series := breakdown.series(runs, protocol):
                alt = f"{METRIC.upper()}, {protocol}, by {breakdown.title}. {_points(series)}"
                images.append(Picture(charts.groups(series), protocol, alt))
        if images:
            found.append((breakdown, images))
    return found


def _points(series: list[Series]) -> str:
    """The points of a chart in words."""
    return "; ".join(
        f"{one.label}: "
        + ", ".join(f"{charts.group_label(name, [one])}: {point.mean:.4f}" for name, point in one.points.items())
        for one in series
    )


def skips(runs: list[ReportedRun]) -> tuple[Rows, list[Picture]]:
    """Where skipped targets rank beside kept ones: a row and a curve a protocol and run."""
    rows, images = [], []
    for protocol in PROTOCOLS:
        shown, alts = [], []
        for number, run in enumerate(runs):
            ranks = run.ranks.get((protocol, "test"))
            if ranks is None or not ranks.skipped.any():
                continue
            shown.append((f"{run.label} " if len(runs) > 1 else "", number, ranks))
            size = f"{ranks.skipped.sum():,} of {len(ranks.session):,} skipped"
            rows.append([f"{protocol}, run {run.label}\n{size}", *_skip_cells(ranks)])
            alts.append(" ".join(rows[-1]).replace("\n", " "))
        if shown:
            images.append(Picture(charts.skips(shown), protocol, f"Share of targets reached, {'; '.join(alts)}"))
    return rows, images


def _skip_cells(ranks: TargetRanks) -> list[str]:
    skipped_N, kept_N, known_N = ranks.skipped, ranks.kept, ranks.known
    if not kept_N.any():
        figures = (_mean(ranks, metric, skipped_N) for metric in ("percentile_rank", "hr@10"))
        return [next(figures), "none", "none", next(figures), "none"]
    middle, low, high = gap(ranks.values("percentile_rank")[known_N], skipped_N[known_N], ranks.session[known_N])
    return [
        *(_mean(ranks, "percentile_rank", chosen_N) for chosen_N in (skipped_N, kept_N)),
        f"{middle:+.2f}\n{low:+.2f} to {high:+.2f}",
        *(_mean(ranks, "hr@10", chosen_N) for chosen_N in (skipped_N, kept_N)),
    ]
