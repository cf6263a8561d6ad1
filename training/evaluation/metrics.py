"""What each metric makes of a session's target rank: the one definition, in NumPy.

Shape legend: N sessions.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

CUTOFFS = (1, 5, 10, 20)


def _hit(rank_N: np.ndarray, cutoff: int) -> np.ndarray:
    return (rank_N <= cutoff).astype(float)


def _gain(rank_N: np.ndarray, cutoff: int) -> np.ndarray:
    return np.where(rank_N <= cutoff, 1 / np.log2(rank_N + 1.0), 0.0)


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"hr@{cutoff}": partial(_hit, cutoff=cutoff) for cutoff in CUTOFFS},
    "ndcg@10": partial(_gain, cutoff=10),
    "mrr": lambda rank_N: 1.0 / rank_N,
}
"""float64 [N] of integer ranks [N], where 1 is best. Each session has one relevant track, so that a hit is a rank of at
most K, and NDCG@10 is 1 / log2(rank + 1) within the first ten. A metric is the mean over sessions."""


def percentile_rank(rank_N: np.ndarray, candidates_N: np.ndarray) -> np.ndarray:
    """float64 [N]: the share of the candidates that rank below the target, in percent: 100 is first, 0 last."""
    return 100.0 * (1 - (rank_N - 1) / np.maximum(candidates_N, 1))
