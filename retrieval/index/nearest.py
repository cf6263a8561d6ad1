"""The best inner product as the least distance, for graphs, which are made for distances.

By inner product itself, rows of large norm are everybody's neighbours and others nobody's, so that a walk along the
graph does not come across them. With all rows divided by the largest norm, and one more number that brings each to
norm 1, |query - row|^2 = 2 - 2 * <query, row> for a query of norm 1: the order is that of the inner products.
Bachrach et al., Speeding Up the Xbox Recommender System Using a Euclidean Transformation for Inner-Product Spaces,
RecSys 2014.

Shape legend: N rows, Q queries, D width, E = D + 1.
"""

import numpy as np

from retrieval.vectors import Vectors


def largest_norm(vectors: Vectors) -> float:
    """Of all rows; 1 where all are zero."""
    largest = max((float(block_BD.norm(dim=1).max()) for _, block_BD in vectors.blocks()), default=0.0)
    return largest or 1.0


def as_points(rows_ND: np.ndarray, largest: float) -> np.ndarray:
    """float32 [N, E] on the unit sphere."""
    scaled_ND = rows_ND / np.float32(largest)
    missing_N = np.sqrt(np.maximum(1 - np.square(scaled_ND).sum(axis=1), 0))
    return np.concatenate([scaled_ND, missing_N[:, None]], axis=1)


def as_query_points(queries_QD: np.ndarray) -> np.ndarray:
    """float32 [Q, E]: a query's own length changes nothing in the order of its answers."""
    norms_Q = np.linalg.norm(queries_QD, axis=1, keepdims=True)
    return np.pad(queries_QD / np.where(norms_Q > 0, norms_Q, 1), ((0, 0), (0, 1)))
