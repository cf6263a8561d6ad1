"""The best rows of each query by inner product: the exact search, and the contract that an index fulfils too.

Shape legend: Q queries, D width, K best, X rows to leave out of a query, B rows of a block, N rows that are allowed.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skipwise.models.ranking import full_topk
from skipwise.models.topk import best_of
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.vectors import BLOCK_ROWS, Vectors

_TAKEN_SHARE = 0.5
"""Up to this share of allowed rows these alone are gathered and scored; beyond it, all rows are."""


class Search(Protocol):
    """Best first."""

    def search(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows int64 [Q, K] without those in `excluded_QX` (-1: none), and their inner products float32 [Q, K].

        Only rows that are `allowed` are found; None: all are. Where fewer are found, row -1 with a score of minus
        infinity; with `allowed`, that is only where there are no more.
        """
        ...


class ExactSearch:
    """Every row is scored, in float32; equal scores come by the lower row."""

    def __init__(self, vectors: Vectors, unit: bool = False):
        """`unit`: rows are normalized, so that the score of a query of norm 1 is the cosine."""
        self._vectors, self._unit = vectors, unit

    def search(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Search`. Equal rows have equal scores, whichever rows are allowed."""
        rows_QK = torch.full((len(queries_QD), k), -1)
        scores_QK = torch.full((len(queries_QD), k), float("-inf"))
        if not len(queries_QD):
            return rows_QK, scores_QK
        if allowed is not None and allowed.count <= _TAKEN_SHARE * allowed.num_rows:
            found = (self._among(rows_N, queries_QD, k, excluded_QX) for rows_N in _pieces(allowed.rows()))
        else:
            mask_R = None if allowed is None else allowed.mask()
            found = (
                full_topk(
                    queries_QD,
                    k,
                    excluded_QX,
                    first,
                    self._rows(block_BD),
                    None if mask_R is None else mask_R[first : first + len(block_BD)],
                )
                for first, block_BD in self._vectors.blocks()
            )
        for more_QK, scores_of_QK in found:
            rows_QK, scores_QK = best_of(
                torch.cat([rows_QK, more_QK], dim=1), torch.cat([scores_QK, scores_of_QK], dim=1), k
            )
        return rows_QK, scores_QK

    def _among(self, rows_N: np.ndarray, queries_QD: Tensor, k: int, excluded_QX: Tensor) -> tuple[Tensor, Tensor]:
        """The best of `rows_N`, which are in ascending order."""
        rows = torch.from_numpy(rows_N)
        place_QX = torch.searchsorted(rows, excluded_QX)
        there_QX = rows[place_QX.clamp(max=len(rows) - 1)] == excluded_QX
        taken_ND = self._rows(torch.from_numpy(self._vectors.take(rows_N)))
        found_QK, scores_QK = full_topk(queries_QD, k, place_QX.where(there_QX, -1), 0, taken_ND)
        return rows[found_QK.clamp(min=0)].where(found_QK >= 0, -1), scores_QK

    def _rows(self, rows_BD: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows_BD, dim=1) if self._unit else rows_BD


def _pieces(rows_N: np.ndarray) -> Iterator[np.ndarray]:
    return (rows_N[first : first + BLOCK_ROWS] for first in range(0, len(rows_N), BLOCK_ROWS))
