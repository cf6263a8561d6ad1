"""The page's sections on what was measured: hit rates, differences, groups of sessions, skipped tracks."""

from collections.abc import Callable

import numpy as np

from skipwise.studies.comparison import METRICS, is_skipped, percentile_rank
from skipwise.studies.groupings import CONTEXT, by_number, groupings
from skipwise.studies.run_report import charts, page
from skipwise.studies.run_report.breakdowns import METRIC, Series, broken_down, label_together
from skipwise.studies.run_report.pairs import differences, unlike
from skipwise.studies.run_report.runs import ReportedRun
from skipwise.studies.statistics import Difference, gap, interval
from skipwise.training.evaluation.evaluator import PROTOCOLS, SPLITS
from skipwise.training.evaluation.records import Ranks

_FIGURES = {name: name.upper() for name in METRICS} | {"skip hr@10": "skip HR@10", "skip pct": "skip pct"}
_AMONG = {"uniform": "among uniformly drawn unseen tracks", "full": "in the whole catalogue, exact"}


def hit_rates(runs: list[ReportedRun]) -> str:
    """The HR@K table with intervals, and what the second run gains over the first."""
    rows = []
    for protocol in PROTOCOLS:
        for split in reversed(SPLITS):
            for run in runs:
                if ranks := run.ranks.get((protocol, split)):
                    rows.append([f"{protocol}\n{split}", run.label, *_cells(ranks), f"{len(ranks.session):,}"])
    heads = ["measured", "run", *_FIGURES.values(), "sessions"]
    parts = [
        page.table(heads, rows, "Mean over sessions, and its 95 % interval (bootstrap over sessions).") if rows else "",
        page.text(
            "uniform: the target among uniformly drawn tracks the session does not contain; full: exact rank in the "
            "whole catalogue. skip HR@10 and skip pct: of targets that the listener skipped, hit rate and mean "
            "percentile rank, the share of the candidates that come after the target (100 is first, 0 last); for "
            "these, lower is better. Intervals speak of other sessions, not of other seeds."
        ),
    ]
    parts += [page.missing(line) for line in _unmeasured(runs)]
    if len(runs) == 2:
        parts += [page.heading("Run B less run A, session by session"), _differences(*runs)]
    return "\n".join(parts)


def breakdowns(runs: list[ReportedRun]) -> str:
    """HR@10 by session length, position, context type and popularity, under both protocols."""
    parts = []
    for name, explained, series_of in (
        ("session length", "Test targets, each session's last track; in brackets the number of sessions.", _by_length),
        (
            "position: tracks before the target",
            "In the test it is the session's length less one; the validation target stands one place earlier, and "
            "the best epoch was chosen by it. A refit has trained on it, and shows the test alone.",
            _by_position,
        ),
        ("context type of the target's play", "As the log has it; test targets.", _by_store("target's context type")),
        (
            "the target's popularity",
            "Fifths of the test sessions by how often training saw their target.",
            _by_store("target's popularity"),
        ),
    ):
        parts += [page.heading(f"HR@10 by {name}"), page.text(explained)]
        lacking = _without(runs, name)
        if not any((protocol, "test") in run.ranks for run in runs for protocol in PROTOCOLS):
            lacking = ["Nothing has been measured."]
        parts += [page.missing(line) for line in lacking]
        images = []
        for protocol in PROTOCOLS:
            if series := series_of(runs, protocol):
                caption = f"{protocol}: {_AMONG[protocol]}. Mean and 95 % interval."
                images.append(page.image(charts.groups(series), caption, _spoken(series, f"{protocol}, by {name}")))
        parts.append(page.pictures(images))
    return "\n".join(parts)


def skips(runs: list[ReportedRun]) -> str:
    """Where skipped targets rank, beside kept ones."""
    rows, images = [], []
    for protocol in PROTOCOLS:
        shown = []
        for number, run in enumerate(runs):
            ranks = run.ranks.get((protocol, "test"))
            if ranks is None or not is_skipped(ranks).any():
                continue
            shown.append((f"{run.label} " if len(runs) > 1 else "", number, ranks))
            rows.append([protocol, run.label, *_skip_cells(ranks)])
        if shown:
            caption = f"{protocol}: how many targets come that far up. The lower the dashed line, the better."
            spoken = "; ".join(" ".join(row).replace("\n", " ") for row in rows if row[0] == protocol)
            images.append(page.image(charts.skips(shown), caption, f"Share of targets reached, {spoken}"))
    if not rows:
        return page.missing("No test target was skipped, or nothing has been measured.")
    heads = ["test", "run", "skipped", "skipped pct", "kept pct", "gap", "skip HR@10", "kept HR@10"]
    return "\n".join(
        [
            page.table(heads, rows, "Mean percentile rank (100 is first) with 95 % intervals; gap: skipped less kept."),
            page.text("A model that has learned what gets skipped has a gap below zero."),
            page.pictures(images),
        ]
    )


def _cells(ranks: Ranks) -> list[str]:
    cells = [_mean(value(ranks)) for value in METRICS.values()]
    skipped_N = is_skipped(ranks)
    if not skipped_N.any():
        return [*cells, "none", "none"]
    return [*cells, _mean(METRICS["hr@10"](ranks)[skipped_N]), _mean(percentile_rank(ranks)[skipped_N], 2)]


def _skip_cells(ranks: Ranks) -> list[str]:
    skipped_N, percentile_rank_N, hits_N = is_skipped(ranks), percentile_rank(ranks), METRICS["hr@10"](ranks)
    size = f"{skipped_N.sum():,} of {len(skipped_N):,}"
    if skipped_N.all():
        return [size, _mean(percentile_rank_N, 2), "none", "none", _mean(hits_N), "none"]
    middle, low, high = gap(percentile_rank_N, skipped_N)
    return [
        size,
        *(_mean(percentile_rank_N[chosen_N], 2) for chosen_N in (skipped_N, ~skipped_N)),
        f"{middle:+.2f}\n{low:+.2f} to {high:+.2f}",
        *(_mean(hits_N[chosen_N]) for chosen_N in (skipped_N, ~skipped_N)),
    ]


def _mean(values_N: np.ndarray, digits: int = 4) -> str:
    low, high = interval(values_N)
    return f"{values_N.mean():.{digits}f}\n{low:.{min(digits, 3)}f} to {high:.{min(digits, 3)}f}"


def _unmeasured(runs: list[ReportedRun]) -> list[str]:
    return [
        f"Run {run.label}: {protocol} has not been measured on the test; "
        f"evaluate --run {run.directory.path} --protocol {protocol} does it."
        for run in runs
        for protocol in PROTOCOLS
        if (protocol, "test") not in run.ranks
    ]


def _differences(first: ReportedRun, second: ReportedRun) -> str:
    rows, parts = [], []
    for protocol in PROTOCOLS:
        if reason := unlike(first, second, protocol):
            parts.append(page.missing(f"{protocol}: no difference can be told, for {reason}."))
            continue
        found = differences(first.ranks[protocol, "test"], second.ranks[protocol, "test"])
        rows.append([f"{protocol}\ntest", *(_difference(found.get(name), name) for name in _FIGURES)])
    if rows:
        caption = (
            "Mean difference and its 95 % interval, paired bootstrap over the same sessions and candidates; * where it "
            "leaves zero out. It speaks of these two runs alone, not of other seeds."
        )
        parts.append(page.table(["measured", *_FIGURES.values()], rows, caption))
    return "\n".join(parts)


def _difference(found: Difference | None, name: str) -> str:
    if found is None:
        return "none"
    digits = 2 if name == "skip pct" else 4
    # Without zeros before the point: eight such columns must fit.
    mean, low, high = (
        f"{value:+.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.{digits}f}"
        for value in (found.mean, found.low, found.high)
    )
    mark = "" if found.low <= 0 <= found.high else " *"
    return f"{mean}{mark}\n{low} to {high}"


def _by_length(runs: list[ReportedRun], protocol: str) -> list[Series]:
    return _by_ranks(runs, protocol, ("test",), lambda ranks: by_number(ranks.position + 1))


def _by_position(runs: list[ReportedRun], protocol: str) -> list[Series]:
    return _by_ranks(runs, protocol, ("test", "validation"), lambda ranks: by_number(ranks.position))


def _by_ranks(
    runs: list[ReportedRun], protocol: str, splits: tuple[str, ...], label: Callable[[Ranks], np.ndarray]
) -> list[Series]:
    """A series a run and split; the groups are the same for all."""
    found = [
        (_label(runs, run, split if len(splits) > 1 else ""), number, place, run.ranks[protocol, split])
        for number, run in enumerate(runs)
        for place, split in enumerate(splits)
        if (protocol, split) in run.ranks
    ]
    if not found:
        return []
    labels = label_together(label, [ranks for *_, ranks in found])
    return broken_down([(*one, labels_N) for one, labels_N in zip(found, labels, strict=True)])


def _by_store(grouping: str) -> Callable[[list[ReportedRun], str], list[Series]]:
    """What the data tell of a session, each run's own; runs without such data are left out."""

    def series(runs: list[ReportedRun], protocol: str) -> list[Series]:
        found = []
        for number, run in enumerate(runs):
            ranks = run.ranks.get((protocol, "test"))
            by = {} if run.store is None or ranks is None else groupings(run.store, run.plays_N)
            if grouping in by:
                found.append((_label(runs, run, ""), number, 0, ranks, by[grouping](ranks)))
        return broken_down(found)

    return series


def _without(runs: list[ReportedRun], name: str) -> list[str]:
    """What this breakdown lacks, run by run."""
    if name.startswith(("session length", "position")):
        return []
    lines = [f"Run {run.label}: the data are not to be had: {run.trouble}" for run in runs if run.store is None]
    if name.startswith("context"):
        lines += [
            f"Run {run.label}: the data have no column '{CONTEXT}'."
            for run in runs
            if run.store is not None and CONTEXT not in run.store.manifest.context_columns
        ]
    return lines


def _label(runs: list[ReportedRun], run: ReportedRun, split: str) -> str:
    return " ".join(filter(None, (f"run {run.label}" if len(runs) > 1 else "", split))) or "test"


def _spoken(series: list[Series], what: str) -> str:
    lines = []
    for one in series:
        points = ", ".join(f"{charts.tick(name, [one])}: {mean:.4f}" for name, (mean, *_) in one.points.items())
        lines.append(f"{one.label}: {points}")
    return f"{METRIC.upper()}, {what}. " + "; ".join(lines)
