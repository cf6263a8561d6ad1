"""The search of a table that has grown since its index was made: the index, and every row behind it.

Shape legend: that of `skipwise.retrieval.search.exact`.
"""

import numpy as np
import torch
from torch import Tensor

from skipwise.models.topk import best_of
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.vectors import Vectors


class GrownSearch:
    """A `Search`. Rows that have changed are found by what the index knows of them, and scored by what they are now."""

    def __init__(self, index: IndexSearch, vectors: Vectors, num_rows: int):
        """`num_rows`: of `vectors`, the first of which the index knows."""
        self.index = index.over(vectors.between(0, index.num_rows))
        self._behind = ExactSearch(vectors.between(index.num_rows, num_rows), first_pass=False)

    def search(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Search`."""
        before, behind = (None, None) if allowed is None else _split(allowed, self.index.num_rows)
        found = [
            self.index.search(queries_QD, k, excluded_QX, before),
            self._behind.search(queries_QD, k, excluded_QX, behind),
        ]
        rows_QK, scores_QK = (torch.cat(pieces, dim=1) for pieces in zip(*found, strict=True))
        return best_of(rows_QK, scores_QK, k)

    def changed(self, rows_X: np.ndarray) -> None:
        """See `Search`."""
        self.index.changed(rows_X[rows_X < self.index.num_rows])


def _split(allowed: Allowed, row: int) -> tuple[Allowed, Allowed]:
    """The rows before `row`, of as many, and those from it on, of all."""
    before, behind = allowed.bits[: -(-row // 8)].copy(), allowed.bits.copy()
    behind[: row // 8] = 0
    if row % 8:
        low = np.uint8((1 << row % 8) - 1)
        before[-1] &= low
        behind[row // 8] &= ~low
    return Allowed(before, row), Allowed(behind, allowed.num_rows)


def search_of(before: Search, vectors: Vectors, num_rows: int) -> Search:
    """The search of `vectors`, of `num_rows` rows, which the table becomes that `before` searches.

    `changed` then says which rows it has anew.
    """
    if isinstance(before, ExactSearch):
        return before.over(vectors)
    index = before.index if isinstance(before, GrownSearch) else before
    assert isinstance(index, IndexSearch)
    return GrownSearch(index, vectors, num_rows)
