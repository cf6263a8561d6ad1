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
from skipwise.training.config import PROTOCOLS, SPLITS, Protocol
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.evaluation.records import TargetRanks

FIGURES = {name: name.upper() for name in METRICS} | {
    "skip hr@10": "HR@10 of skipped",
    "skip rank": "percentile rank of skipped",
}
"""Columns of the hit rate tables, by metric."""
_ALL = slice(None)
_CANDIDATES = {
    "served": "among what is recommended",
    "full": "in the whole catalogue",
    "paper": "among uniformly drawn unseen tracks",
}


def hit_rates(runs: list[ReportedRun]) -> Rows:
    """A row for each protocol, split and run that was evaluated."""
    return [
        [f"{protocol}\n{split}", run.label, *_cells(ranks), _size(ranks)]
        for protocol in PROTOCOLS
        for split in reversed(SPLITS)
        for run in runs
        if (ranks := run.ranks.get((protocol, split)))
    ]


def _size(ranks: TargetRanks) -> str:
    return f"{len(ranks.session):,}\nof {len(np.unique(ranks.session)):,}"


def limits(runs: list[ReportedRun]) -> list[str]:
    """What `served` allows on each run's test, and that a refit is not compared with its like."""
    lines = [
        f"Run {run.label}: {ranks.repeated.sum():,} of its test's {len(ranks.session):,} targets were played before in "
        f"their session, so that no hit rate by served is above {1 - ranks.repeated.mean():.4f}."
        for run in runs
        if (ranks := run.ranks.get(("served", "test")))
    ]
    return lines + refit_note([f"run {run.label}" for run in runs], [run.directory.config.train.refit for run in runs])


def _cells(ranks: TargetRanks) -> list[str]:
    cells = [_mean(ranks, metric) for metric in METRICS]
    if not ranks.skipped.any():
        return [*cells, "none", "none"]
    return [*cells, _mean(ranks, "hr@10", ranks.skipped), _mean(ranks, "percentile_rank", ranks.skipped)]


def _mean(ranks: TargetRanks, metric: str, chosen: np.ndarray | slice = _ALL) -> str:
    """The mean of a metric over the chosen targets, and its interval."""
    digits = 2 if metric == "percentile_rank" else 4
    values_M = per_session(ranks.values(metric)[chosen], ranks.session[chosen])
    low, high = interval(values_M)
    return f"{values_M.mean():.{digits}f}\n{low:.{min(digits, 3)}f} to {high:.{min(digits, 3)}f}"


def difference_table(runs: list[ReportedRun]) -> tuple[Rows, list[str]]:
    """Run B less run A, a row a protocol; and why a protocol has none."""
    rows, missing = [], []
    first, second = runs
    for protocol in PROTOCOLS:
        if reason := not_comparable(first, second, protocol):
            missing.append(f"{protocol}: the runs cannot be compared session by session, because {reason}.")
            continue
        found = differences(first.ranks[protocol, "test"], second.ranks[protocol, "test"])
        rows.append([f"{protocol}\ntest", *(_difference(found.get(name), name) for name in FIGURES)])
    return rows, missing


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
    # Without zeros before the point: eight such columns must fit.
    mean, low, high = (
        f"{value:+.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.{digits}f}"
        for value in (found.mean, found.low, found.high)
    )
    mark = "" if found.low <= 0 <= found.high else " *"
    return f"{mean}{mark}\n{low} to {high}"


def groups(runs: list[ReportedRun]) -> list[tuple[Breakdown, list[str], list[Picture]]]:
    """HR@10 by each breakdown, under every protocol: what runs lack for it, and the pictures."""
    measured = any((protocol, "test") in run.ranks for run in runs for protocol in PROTOCOLS)
    found = []
    for breakdown in BREAKDOWNS:
        images = []
        for protocol in PROTOCOLS:
            if series := breakdown.series(runs, protocol):
                caption = f"{protocol}: {_CANDIDATES[protocol]}. Mean and 95 % interval over sessions."
                alt = f"{METRIC.upper()}, {protocol}, by {breakdown.title}. {_points(series)}"
                images.append(Picture(charts.groups(series), caption, alt))
        found.append((breakdown, breakdown.missing(runs) if measured else ["Nothing has been measured."], images))
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
            rows.append([protocol, run.label, *_skip_cells(ranks)])
            alts.append(" ".join(rows[-1]).replace("\n", " "))
        if shown:
            caption = f"{protocol}: the share of targets that rank so high. The lower the dashed line, the better."
            images.append(Picture(charts.skips(shown), caption, f"Share of targets reached, {'; '.join(alts)}"))
    return rows, images


def _skip_cells(ranks: TargetRanks) -> list[str]:
    skipped_N, kept_N, known_N = ranks.skipped, ranks.kept, ranks.known
    size = f"{skipped_N.sum():,} of {len(skipped_N):,}"
    if not kept_N.any():
        figures = (_mean(ranks, metric, skipped_N) for metric in ("percentile_rank", "hr@10"))
        return [size, next(figures), "none", "none", next(figures), "none"]
    middle, low, high = gap(ranks.values("percentile_rank")[known_N], skipped_N[known_N], ranks.session[known_N])
    return [
        size,
        *(_mean(ranks, "percentile_rank", chosen_N) for chosen_N in (skipped_N, kept_N)),
        f"{middle:+.2f}\n{low:+.2f} to {high:+.2f}",
        *(_mean(ranks, "hr@10", chosen_N) for chosen_N in (skipped_N, kept_N)),
    ]
