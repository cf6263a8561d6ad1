"""The tracks nearest to a track, by the exact search.

Shape legend: Q tracks asked for, B rows of a block, D width, K nearest.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.vectors import Vectors
from training.best import best_of
from training.full import full_topk

By = Literal["cosine", "inner-product"]


@torch.no_grad()
def nearest(vectors: Vectors, rows_Q: np.ndarray, k: int, by: By) -> tuple[Tensor, Tensor]:
    """Rows int64 [Q, K] other than its own, nearest first, and how near, float32 [Q, K]; row -1 where there are fewer.

    A track whose vector is zero has no direction: its cosine with any is zero.
    """
    scaled = normalize if by == "cosine" else lambda rows_BD: rows_BD
    queries_QD = scaled(torch.from_numpy(vectors.take(rows_Q)))
    own_Q1 = torch.from_numpy(rows_Q)[:, None]
    best = torch.full((len(rows_Q), k), -1), torch.full((len(rows_Q), k), float("-inf"))
    for first, block_BD in vectors.blocks():
        found = full_topk(queries_QD, k, own_Q1, first, scaled(block_BD))
        best = best_of(*(torch.cat(pair, dim=1) for pair in zip(best, found, strict=True)), k)
    return best
