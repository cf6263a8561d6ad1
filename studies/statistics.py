"""Intervals and tests over sessions and seeds.

The bootstrap resamples sessions. A metric takes few distinct values over sessions, so a resample of all sessions is one
multinomial draw of how often each value occurs: the same distribution in a fraction of the time and the memory. Where
the values are many (MRR or percentiles over several seeds), near ones are pooled first, which keeps mean and variance.
Shape legend: N sessions (in `per_session` and `gap` targets), M sessions, S seeds.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 10_000
_CHUNK = 2_000_000  # counts that are drawn at once
_DISTINCT = 1024  # more than the ranks of `paper` with 1,000 candidates: one seed is never pooled there
_ROUNDING = 1e-12  # the error of sums of thirds
SIGNIFICANT = 0.05
INTERVAL = "95 % interval over sessions"
"""What every table and picture calls `interval`; that of a difference is "paired" too."""


def bootstrap_means(values_N: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """[resamples] means of N sessions drawn with replacement. Needs at least one session."""
    values, counts = np.unique(values_N, return_counts=True)
    if len(values) > _DISTINCT:
        values, counts = _pooled(values, counts)
    random = np.random.default_rng(seed)
    num_rows = max(1, _CHUNK // len(values))
    shares = counts / counts.sum()
    parts = [
        random.multinomial(len(values_N), shares, size=min(num_rows, resamples - first)) @ values
        for first in range(0, resamples, num_rows)
    ]
    return np.concatenate(parts) / len(values_N)


def _pooled(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `_DISTINCT` values: bins of equal width become their means, which are then scaled to the old variance."""
    bins = ((values - values[0]) / (values[-1] - values[0]) * _DISTINCT).astype(int).clip(max=_DISTINCT - 1)
    sizes = np.bincount(bins, counts)
    taken = sizes > 0
    pooled = np.bincount(bins, counts * values)[taken] / sizes[taken]
    mean = np.average(values, weights=counts)
    before = np.average((values - mean) ** 2, weights=counts)
    after = np.average((pooled - mean) ** 2, weights=sizes[taken])
    return mean + (pooled - mean) * np.sqrt(before / after), sizes[taken].astype(np.int64)


def per_session(values_N: np.ndarray, session_N: np.ndarray, chosen_N: np.ndarray | None = None) -> np.ndarray:
    """[M] of N targets: values whose mean is the mean over targets, or over the chosen ones of bool [N].

    A session with several targets is one draw of the bootstrap, because its targets are not independent. So its share
    of the ratio of sums is taken, to first order (Cochran, "Sampling Techniques", 1977, section 6.3): where each
    session has one target, that is the target's own value, without rounding. Needs at least one target.
    """
    _, place_N = np.unique(session_N, return_inverse=True)
    weight_N = np.ones(len(values_N)) if chosen_N is None else chosen_N.astype(float)
    return ratio_per_session(np.bincount(place_N, values_N * weight_N), np.bincount(place_N, weight_N))


def ratio_per_session(sum_M: np.ndarray, size_M: np.ndarray) -> np.ndarray:
    """[M] values whose mean is the ratio of the sums, as `per_session` has them. Needs a size above 0."""
    mean = sum_M.sum() / size_M.sum()
    return sum_M / size_M.mean() + mean * (1 - size_M / size_M.mean())


def interval(values_N: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean over sessions."""
    return _middle(bootstrap_means(values_N))


def gap(values_N: np.ndarray, marked_N: np.ndarray, session_N: np.ndarray) -> tuple[float, float, float]:
    """Mean of the targets marked in bool [N] less that of the others, and its 95 % interval.

    Needs at least one target on either side.
    """
    gaps_M = per_session(values_N, session_N, marked_N) - per_session(values_N, session_N, ~marked_N)
    return float(values_N[marked_N].mean() - values_N[~marked_N].mean()), *interval(gaps_M)


def _middle(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, [SIGNIFICANT / 2, 1 - SIGNIFICANT / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """A model's values less its baseline's, session by session."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of the paired bootstrap over sessions."""


def paired(values_N: np.ndarray, baseline_N: np.ndarray) -> Difference:
    """The mean difference over the same sessions, its 95 % interval, and p.

    p is twice the smaller share of resamples on either side of zero. One resample is added to each side, so that p is
    never zero.
    """
    differences = values_N - baseline_N
    means = bootstrap_means(differences)
    beyond = min((means <= _ROUNDING).sum(), (means >= -_ROUNDING).sum())
    p = min(1.0, 2 * (beyond + 1) / (len(means) + 1))
    return Difference(float(differences.mean()), *_middle(means), float(p))


def over_seeds(means_S: np.ndarray, baseline_S: np.ndarray) -> float | None:
    """Two-sided p of Student's paired t-test of the seeds' means; None below two seeds, or where they never differ."""
    if len(means_S) != len(baseline_S) or len(means_S) < 2:
        return None
    p = stats.ttest_rel(means_S, baseline_S).pvalue if np.ptp(means_S - baseline_S) > _ROUNDING else np.nan
    return None if np.isnan(p) else float(p)


def holm(p_values: list[float]) -> list[float]:
    """Adjusts p-values for the chance of any false rejection among all of them (Holm 1979, step-down)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = largest
    return adjusted
