"""How runs foresee skips and order pairs, from their records: figures with intervals, and differences by session.

Shape legend: N targets, M sessions, S seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from skipwise.studies.statistics import interval, paired, per_session, ratio_per_session
from skipwise.training.evaluation.records import TargetRanks
from skipwise.training.evaluation.skip_measures import (
    BINS,
    CELLS,
    FORESEEN,
    ORDERED,
    auc,
    bins,
    calibration_errors,
    mean_average_accuracy,
)

LABELS = FORESEEN | ORDERED | {"listed_skips": "expected skips"}
"""The figures' names in tables."""
HITS = {
    "hr@10": "HR@10",
    "kept_hr@10": "HR@10, kept",
    "skipped_hr@10": "HR@10, skipped",
    "gap_hr@10": "HR@10, kept - skipped",
}
"""Hit rates of `hit_values`, and their names in tables."""


def hit_values(ranks: TargetRanks) -> dict[str, np.ndarray]:
    """[M] values of `HITS`, of which those of kept and of skipped targets are there where such targets are."""
    hits_N, session_N = ranks.values("hr@10"), ranks.session
    found = {"hr@10": per_session(hits_N, session_N)}
    for name, chosen_N in (("kept_hr@10", ranks.kept), ("skipped_hr@10", ranks.skipped)):
        if chosen_N.any():
            found[name] = per_session(hits_N, session_N, chosen_N)
    if len(found) == 3:
        found["gap_hr@10"] = found["kept_hr@10"] - found["skipped_hr@10"]
    return found


def skip_values(ranks: TargetRanks) -> dict[str, np.ndarray]:
    """[M] values of each figure that the records allow, one a session that has any; their mean is the figure.

    The figures are those of `metrics.json`: `next_skip_...` only of runs with a keep head, pairs only where records
    have any.
    """
    found = {}
    known_N, halved_N = (
        ~np.isnan(values) & ranks.known for values in (ranks.kept_probability, ranks.halved_probability)
    )
    kept_N = ranks.kept
    if known_N.any():
        probability_N, session_N = ranks.kept_probability[known_N].astype(np.float64), ranks.session[known_N]
        known_kept_N = kept_N[known_N]
        if 0 < known_kept_N.sum() < len(known_kept_N):
            found["next_skip_auc"] = auc(-bins(probability_N), ~known_kept_N, session_N)
        found["next_skip_accuracy"] = per_session((probability_N >= 0.5) == known_kept_N, session_N)
        if halved_N.any():
            right_N = (ranks.halved_probability >= 0.5) == kept_N
            found["next_skip_maa"] = mean_average_accuracy(right_N[halved_N], ranks.session[halved_N])
        found["next_skip_ece"] = per_session(calibration_errors(probability_N, known_kept_N), session_N)
    if ranks.pairs.any():
        _, place_N = np.unique(ranks.session, return_inverse=True)
        for name, won_N in (("pairs_in_order", ranks.pairs_won), ("keep_pairs_in_order", ranks.keep_pairs_won)):
            if not np.isnan(won_N).any():
                found[name] = ratio_per_session(np.bincount(place_N, won_N), np.bincount(place_N, ranks.pairs))
    listed_N = ~np.isnan(ranks.listed_skips)
    if listed_N.any():
        found["listed_skips"] = per_session(np.nan_to_num(ranks.listed_skips), ranks.session, listed_N)
    return found


def over_seeds(measured_S: Sequence[TargetRanks]) -> dict[str, np.ndarray]:
    """[S, M] `skip_values` of runs on the same targets, of the figures that all of them have."""
    values_S = [skip_values(ranks) for ranks in measured_S]
    return {
        name: np.stack([values[name] for values in values_S]) for name in LABELS if all(name in v for v in values_S)
    }


def figure(values_SM: np.ndarray, least: float = 0.0) -> dict[str, Any]:
    """Mean, 95 % interval of the seeds' mean over sessions, and the standard deviation over seeds.

    The figure lies in [`least`, 1]; what is resampled, to first order, need not.
    """
    low, high = interval(values_SM.mean(axis=0))
    spread = float(values_SM.mean(axis=1).std(ddof=1)) if len(values_SM) > 1 else None
    return {"mean": float(values_SM.mean()), "low": max(low, least), "high": min(high, 1.0), "over_seeds": spread}


def figures_of(values: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The `figure` of each [S, M], by name."""
    return {name: figure(values_SM, -1.0 if name == "gap_hr@10" else 0.0) for name, values_SM in values.items()}


def differences(values: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """The `difference` of each figure that both have, by name."""
    return {name: difference(values_SM, others[name]) for name, values_SM in values.items() if name in others}


def difference(values_SM: np.ndarray, other_SM: np.ndarray) -> list[float]:
    """The first less the second, session by session: mean and 95 % interval."""
    found = paired(values_SM.mean(axis=0), other_SM.mean(axis=0))
    return [found.mean, found.low, found.high]


class Reliability(NamedTuple):
    """The plays of one cell of P(kept)."""

    told: float
    """Their mean P(kept)."""
    kept: float
    """The share of them that was kept, and its 95 % interval over sessions."""
    low: float
    high: float
    plays: int


def reliability(ranks: TargetRanks) -> list[Reliability]:
    """The cells of the calibration error that hold plays, by ascending P(kept); needs a keep head."""
    known_N = ~np.isnan(ranks.kept_probability) & ranks.known
    probability_N, kept_N = ranks.kept_probability[known_N].astype(np.float64), ranks.kept[known_N]
    session_N, cell_N = ranks.session[known_N], bins(probability_N) // (BINS // CELLS)
    points = []
    for cell in np.unique(cell_N):
        here_N = cell_N == cell
        low, high = interval(per_session(kept_N[here_N], session_N[here_N]))
        kept = float(kept_N[here_N].mean())
        points.append(Reliability(float(probability_N[here_N].mean()), kept, low, high, int(here_N.sum())))
    return points
