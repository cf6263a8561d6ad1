"""Comparison of models: means over seeds and targets, intervals, gains over a baseline, tests, breakdowns.

Shape legend: N targets, M sessions, S seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipwise.common.errors import UserError
from skipwise.studies.statistics import gap, holm, interval, over_seeds, paired, per_session
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.evaluation.records import TargetRanks, read_target_ranks

TESTED = ("hr@1", "hr@10")
"""The metrics whose differences are tested."""


@dataclass(frozen=True)
class Row:
    """A model of the table, trained once a seed; or a reference that every model must beat."""

    name: str
    label: str
    group: str
    """Rows of a group stand together, and the best figures of each group are marked."""
    runs: tuple[Path, ...]
    """Run directories, by ascending seed."""
    baseline: str | None = None
    """Name of the row it is compared with."""
    paper: tuple[float, float, float, float] | None = None
    """HR@1/5/10/20 that the paper's table 1 gives this model."""
    reference: bool = False
    refit: bool = False
    """Trained on the validation targets too: compared with such rows alone."""


Grouping = dict[str, Callable[[TargetRanks], np.ndarray]]
"""Breakdowns by name: functions that return the [N] labels of the sessions."""


def compare(rows: list[Row], protocol: str, groupings: Grouping | None = None) -> dict[str, Any]:
    """Returns every figure of one protocol's test table, as JSON holds it.

    `broken` names the rows that do not beat the best of the references that hold out as much in HR@10. Raises
    `UserError` where rows were not measured on the same targets, among as many candidates.
    """
    measured = {row.name: [read_target_ranks(run, protocol, "test") for run in row.runs] for row in rows}
    refuse_unlike([(run, ranks) for row in rows for run, ranks in zip(row.runs, measured[row.name], strict=True)])
    first = measured[rows[0].name][0]
    table = {row.name: _figures(row, measured[row.name], groupings or {}) for row in rows}
    _test(rows, measured, table)
    best: dict[bool, str] = {}
    for row in sorted((row for row in rows if row.reference), key=lambda row: table[row.name]["hr@10"]["mean"]):
        best[row.refit] = row.name
    broken = [
        row.name
        for row in rows
        if not row.reference
        and row.refit in best
        and paired(*(_by_session(measured[name], "hr@10") for name in (row.name, best[row.refit]))).low <= 0
    ]
    return {
        "protocol": protocol,
        "sessions": len(np.unique(first.session)),
        "targets": len(first.session),
        "repeated": int(first.repeated.sum()),
        "skipped": int(first.skipped.sum()),
        "candidates": int(np.median(first.candidates)),
        "references": [best[refit] for refit in sorted(best)],
        "broken": broken,
        "rows": table,
    }


def refuse_unlike(measured: Sequence[tuple[Path, TargetRanks]]) -> None:
    """Raises `UserError` where runs were not measured on the same targets, among as many candidates."""
    run, first = measured[0]
    for other, ranks in measured[1:]:
        same = (
            np.array_equal(getattr(ranks, name), getattr(first, name)) for name in ("session", "position", "target")
        )
        if not all(same):
            raise UserError(
                f"{other} was measured on other targets than {run}: "
                "compare runs of one data set and the same --evaluate.sessions and --evaluate.positions"
            )
        if not np.array_equal(ranks.candidates, first.candidates):
            raise UserError(
                f"{other} was ranked among other candidates than {run}: compare runs of the same --evaluate.candidates"
            )


def _over_seeds(measured_S: list[TargetRanks], metric: str) -> np.ndarray:
    """[N]: each target's mean over seeds."""
    means_N: np.ndarray = np.mean([ranks.values(metric) for ranks in measured_S], axis=0)
    return means_N


def _by_session(measured_S: list[TargetRanks], metric: str, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
    """[M]: `per_session` of the mean over seeds, of the sessions with a chosen target."""
    return per_session(_over_seeds(measured_S, metric)[chosen], measured_S[0].session[chosen])


def _figures(row: Row, measured_S: list[TargetRanks], groupings: Grouping) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: getattr(row, name) for name in ("label", "group", "baseline", "reference", "refit", "paper")
    }
    figures["seeds"] = len(measured_S)
    for metric in METRICS:
        means_S = [float(ranks.values(metric).mean()) for ranks in measured_S]
        low, high = interval(_by_session(measured_S, metric))
        spread = float(np.std(means_S, ddof=1)) if len(means_S) > 1 else None
        figures[metric] = {"mean": float(np.mean(means_S)), "low": low, "high": high, "over_seeds": spread}
    figures["skips"] = _skips(measured_S)
    figures["by"] = {name: _by_group(measured_S, label) for name, label in groupings.items()}
    return figures


def _skips(measured_S: list[TargetRanks]) -> dict[str, Any]:
    """Skip down-ranking: percentile rank (100 is first) and HR@10 of skipped and of kept targets."""
    skipped_N = measured_S[0].skipped
    percentile_rank_N = _over_seeds(measured_S, "percentile_rank")
    hits_N = _over_seeds(measured_S, "hr@10")
    found: dict[str, Any] = {}
    for name, chosen_N in (("skipped", skipped_N), ("kept", measured_S[0].kept)):
        if chosen_N.any():
            low, high = interval(_by_session(measured_S, "percentile_rank", chosen_N))
            found[name] = {
                "targets": int(chosen_N.sum()),
                "percentile_rank": float(percentile_rank_N[chosen_N].mean()),
                "low": low,
                "high": high,
                "hr@10": float(hits_N[chosen_N].mean()),
            }
    if len(found) == 2:
        known_N = measured_S[0].known
        found["gap"] = gap(percentile_rank_N[known_N], skipped_N[known_N], measured_S[0].session[known_N])
    return found


def _by_group(measured_S: list[TargetRanks], label: Callable[[TargetRanks], np.ndarray]) -> dict[str, dict[str, Any]]:
    """HR@1 and HR@10 over the targets of each label, and over the kept ones of them, and their numbers."""
    labels_N, kept_N = label(measured_S[0]), measured_S[0].kept
    hits_N = {metric: _over_seeds(measured_S, metric) for metric in TESTED}
    groups: dict[str, dict[str, Any]] = {}
    for name in np.unique(labels_N):
        figures: dict[str, Any] = {}
        groups[str(name)] = figures
        for prefix, chosen_N in (("", labels_N == name), ("kept_", (labels_N == name) & kept_N)):
            figures[f"{prefix}targets"] = int(chosen_N.sum())
            for metric in TESTED:
                figures[prefix + metric] = float(hits_N[metric][chosen_N].mean()) if chosen_N.any() else None
    return groups


def _test(rows: list[Row], measured: dict[str, list[TargetRanks]], table: dict[str, dict[str, Any]]) -> None:
    """Adds `gain` (in percent, all metrics) and, for the tested ones, `difference`, `p`, `p_holm` and `p_seeds`.

    Only to rows that hold out as much as their baseline does. `skips` gets `gap_change`: the gap less the baseline's,
    session by session.
    """
    tested = []
    for row in rows:
        if row.baseline not in table or table[row.baseline]["refit"] != row.refit:
            continue
        if "gap" in table[row.name]["skips"]:
            percentile_rank_N, other_N = (
                _over_seeds(measured[name], "percentile_rank") for name in (row.name, row.baseline)
            )
            first = measured[row.name][0]
            table[row.name]["skips"]["gap_change"] = gap(
                (percentile_rank_N - other_N)[first.known], first.skipped[first.known], first.session[first.known]
            )
        for metric in METRICS:
            mine, other = table[row.name][metric], table[row.baseline][metric]
            mine["gain"] = 100 * (mine["mean"] / other["mean"] - 1) if other["mean"] else None
            if metric in TESTED:
                pair = measured[row.name], measured[row.baseline]
                found = paired(*(_by_session(ranks_S, metric) for ranks_S in pair))
                means = [np.array([ranks.values(metric).mean() for ranks in ranks_S]) for ranks_S in pair]
                mine |= {"difference": [found.mean, found.low, found.high], "p": found.p, "p_seeds": over_seeds(*means)}
                tested.append(mine)
    for figures, adjusted in zip(tested, holm([figures["p"] for figures in tested]), strict=True):
        figures["p_holm"] = adjusted
