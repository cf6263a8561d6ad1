"""Intervals and tests over sessions and seeds.

The bootstrap resamples sessions. What a metric makes of a session takes few distinct values, so a resample of all
sessions is one draw of how often each value comes: the same distribution in a fraction of the time and the memory.
Where they are many (MRR or percentiles over several seeds), near ones are pooled first, mean and variance kept.
Shape legend: N sessions, S seeds.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 10_000
_CHUNK = 2_000_000  # counts drawn at once
_DISTINCT = 1024  # all ranks of `uniform` with 1,000 candidates are fewer, so one seed is never pooled there
_ROUNDING = 1e-12  # thirds do not add up to zero exactly
_SIGNIFICANCE = 0.05


def bootstrap_means(values_N: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """[resamples] means of N sessions drawn with replacement. Needs at least one session."""
    values, counts = np.unique(values_N, return_counts=True)
    if len(values) > _DISTINCT:
        values, counts = _pooled(values, counts)
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(values))
    shares = counts / counts.sum()
    parts = [
        random.multinomial(len(values_N), shares, size=min(rows, resamples - first)) @ values
        for first in range(0, resamples, rows)
    ]
    return np.concatenate(parts) / len(values_N)


def _pooled(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `_DISTINCT` values: each bin of equal width becomes its mean, then all are spread to the old variance."""
    bins = ((values - values[0]) / (values[-1] - values[0]) * _DISTINCT).astype(int).clip(max=_DISTINCT - 1)
    sizes = np.bincount(bins, counts)
    taken = sizes > 0
    pooled = np.bincount(bins, counts * values)[taken] / sizes[taken]
    mean = np.average(values, weights=counts)
    before = np.average((values - mean) ** 2, weights=counts)
    after = np.average((pooled - mean) ** 2, weights=sizes[taken])
    return mean + (pooled - mean) * np.sqrt(before / after), sizes[taken].astype(np.int64)


def interval(values_N: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean over sessions."""
    return _middle(bootstrap_means(values_N))


def gap(values_N: np.ndarray, marked_N: np.ndarray) -> tuple[float, float, float]:
    """Mean of the sessions marked in bool [N] less that of the others, and its 95 % interval.

    Each side is resampled by itself, so that their sizes stay. Needs at least one session on either side.
    """
    sides = values_N[marked_N], values_N[~marked_N]
    # Two seeds: with one, both sides would draw from the same stream.
    first, second = (bootstrap_means(side, seed=seed) for seed, side in enumerate(sides))
    return float(sides[0].mean() - sides[1].mean()), *_middle(first - second)


def _middle(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, [_SIGNIFICANCE / 2, 1 - _SIGNIFICANCE / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """A row less its baseline, session by session."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of the paired bootstrap over sessions."""


def paired(values_N: np.ndarray, baseline_N: np.ndarray) -> Difference:
    """The mean difference over the same sessions, its 95 % interval, and how often a resample would cross zero.

    Twice the smaller share of resamples on either side of zero, each resample counted with one more that lies beyond:
    a p is never zero.
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
    """Adjusted p-values that keep the chance of any false rejection among all of them (Holm 1979, step-down)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = largest
    return adjusted
