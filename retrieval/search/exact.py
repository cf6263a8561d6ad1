"""The best rows of each query by inner product: the exact search, and the contract that an index fulfils too.

Shape legend: Q queries, D width, K best, X rows to leave out of a query.
"""

from typing import Protocol

import torch
from torch import Tensor

from skipwise.models.ranking import full_topk
from skipwise.models.topk import best_of
from skipwise.retrieval.vectors import Vectors


class Search(Protocol):
    """Best first."""

    def search(self, queries_QD: Tensor, k: int, excluded_QX: Tensor) -> tuple[Tensor, Tensor]:
        """Rows int64 [Q, K] without those in `excluded_QX` (-1: none), and their inner products float32 [Q, K].

        Where fewer are found, row -1 with a score of minus infinity.
        """
        ...


class ExactSearch:
    """Every row is scored, in float32; equal scores come by the lower row."""

    def __init__(self, vectors: Vectors, unit: bool = False):
        """`unit`: rows are normalized, so that the score of a query of norm 1 is the cosine."""
        self._vectors, self._unit = vectors, unit

    def search(self, queries_QD: Tensor, k: int, excluded_QX: Tensor) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        rows_QK = torch.full((len(queries_QD), k), -1)
        scores_QK = torch.full((len(queries_QD), k), float("-inf"))
        if not len(queries_QD):
            return rows_QK, scores_QK
        for first, block_BD in self._vectors.blocks():
            if self._unit:
                block_BD = torch.nn.functional.normalize(block_BD, dim=1)
            found = full_topk(queries_QD, k, excluded_QX, first, block_BD)
            rows_QK, scores_QK = best_of(
                torch.cat([rows_QK, found[0]], dim=1), torch.cat([scores_QK, found[1]], dim=1), k
            )
        return rows_QK, scores_QK
