"""What each metric makes of a target's rank: the one definition, in NumPy.

A target's place is (rank, ties): rank is one more than the number of tracks that score above it, and ties is how many
others score as much. A metric is its expected value over the order of the tied tracks, for every model and baseline.
Rank 0 marks a target that cannot be recommended: it is a miss.
Shape legend: N targets.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.special import digamma

CUTOFFS = (1, 5, 10, 20)
NOT_ELIGIBLE = 0
"""The rank of a target that the protocol cannot rank."""
GROUPS = ("kept", "skipped", "new", "repeated")
"""Targets that the listener kept or skipped, and those that the session had not or had played before."""


def _hits(place_N: np.ndarray, cutoff: int) -> np.ndarray:
    """The sum over the places 1 to n of the hit at `cutoff`."""
    return np.minimum(place_N, cutoff).astype(float)


def _gains(place_N: np.ndarray, cutoff: int) -> np.ndarray:
    """The sum over the places 1 to n of the discounted gain."""
    sums = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2.0, cutoff + 2)))])
    return sums[np.minimum(place_N, cutoff)]


def _reciprocals(place_N: np.ndarray) -> np.ndarray:
    """The sum over the places 1 to n of 1 / n, less a constant."""
    return digamma(place_N + 1.0)


def _expected(sums: Callable[[np.ndarray], np.ndarray], rank_N: np.ndarray, ties_N: np.ndarray) -> np.ndarray:
    """The mean over the places rank to rank + ties, zero where the target is not eligible."""
    rank_N, ties_N = rank_N.astype(np.int64), ties_N.astype(np.int64)
    first_N = np.maximum(rank_N, 1)
    means_N = (sums(first_N + ties_N) - sums(first_N - 1)) / (ties_N + 1)
    return np.where(rank_N == NOT_ELIGIBLE, 0.0, means_N)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    **{f"hr@{cutoff}": partial(_expected, partial(_hits, cutoff=cutoff)) for cutoff in CUTOFFS},
    "ndcg@10": partial(_expected, partial(_gains, cutoff=10)),
    "mrr": partial(_expected, _reciprocals),
}
"""float64 [N] of integer ranks [N] and ties [N]. Each target is the one relevant track of its list, so that a hit is a
place of at most K, and NDCG@10 is 1 / log2(place + 1) within the first ten. A metric is the mean over targets."""


def percentile_rank(rank_N: np.ndarray, ties_N: np.ndarray, candidates_N: np.ndarray) -> np.ndarray:
    """float64 [N]: the share of the candidates that rank below the target, in percent: 100 is first, 0 last."""
    place_N = rank_N + ties_N / 2
    shares_N = 100.0 * (1 - (place_N - 1) / np.maximum(candidates_N, 1))
    return np.where(rank_N == NOT_ELIGIBLE, 0.0, shares_N)
