"""The tracks nearest to a track, by the exact search.

Shape legend: Q tracks asked for, D width, K nearest.
"""

import numpy as np
import torch
from torch.nn.functional import normalize

from skipwise.components.similar import Likeness
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.vectors import Vectors


@torch.no_grad()
def nearest(vectors: Vectors, rows_Q: np.ndarray, k: int, by: Likeness) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 [Q, K] most like each of `rows_Q`, itself left out, and how alike they are, float32 [Q, K].

    Row -1 where there are no more.
    """
    queries_QD = torch.from_numpy(vectors.take(rows_Q))
    if by == "cosine":
        queries_QD = normalize(queries_QD, dim=1)
    own_Q1 = torch.from_numpy(rows_Q)[:, None]
    rows_QK, likeness_QK = ExactSearch(vectors, unit=by == "cosine").search(queries_QD, k, own_Q1)
    return rows_QK.numpy(), likeness_QK.numpy()
