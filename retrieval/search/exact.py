"""The best rows of each query by inner product: the exact search, and the contract that an index fulfils too.

Shape legend: R rows, Q queries, D width, K best, X rows to leave out of a query, P pairs of a query and a row, B rows
of a block, N rows that are allowed.
"""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from skipwise.models.ranking import full_topk
from skipwise.models.topk import best_of, side_by_side
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.first_pass import MOST_BEST, FirstPass, is_fast, queries_a_call
from skipwise.retrieval.vectors import BLOCK_ROWS, Vectors

_TAKEN_SHARE = 0.5
"""Up to this share of allowed rows these alone are gathered and scored; beyond it, all rows are."""
_FEW_QUERIES, _TAKEN_SHARE_FOR_FEW = 16, 0.125
"""For so few queries gathering takes longer than a first pass over all rows."""
_FEWEST_ROWS = 1 << 16
"""Below so many rows the search takes a millisecond or two, and has no first pass."""
_AFTER_QUERIES = 16
"""A first pass takes as long to set up as so many queries one by one."""
_REFUSALS = 3
"""Calls in a row after which a first pass that cannot tell the rows of this table apart is given up."""
_TAKEN = 1 << 15
"""Rows that are scored again at a time."""


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

    def changed(self, rows_X: np.ndarray) -> None:
        """Rows `rows_X`, int64, of the table that is searched have been written anew; nobody may be searching."""
        ...


class _FirstPassState:
    """The first pass over a table once it is set up, and what decides on it; shared by the searches of one table."""

    def __init__(self, pays: bool):
        self.pays, self.num_refused, self.num_asked = pays, 0, 0
        self.made: FirstPass | None = None
        self.setting_up = threading.Lock()


class ExactSearch:
    """Every row is scored; equal scores come by the lower row. Thread-safe.

    Large tables have a first pass in 8 bits where the machine is fast at it, whose candidates are scored in float32
    (`FirstPass`). The best rows are those without it, but for such whose scores differ by no more than rounding.
    """

    def __init__(self, vectors: Vectors, unit: bool = False, first_pass: bool = True):
        """`unit`: rows are normalized, so that the score of a query of norm 1 is the cosine.

        `first_pass`: whether a large table, whose first row is 0, may have one.
        """
        self._vectors, self._unit, self._large = vectors, unit, first_pass and vectors.shape[0] >= _FEWEST_ROWS
        self._first = _FirstPassState(self._large)

    def over(self, vectors: Vectors) -> "ExactSearch":
        """The search of a table that this one's is to become: `changed` then says which rows it has anew."""
        found = ExactSearch(vectors, self._unit, self._large)
        found._first, found._large = self._first, self._large
        return found

    def changed(self, rows_X: np.ndarray) -> None:
        """See `Search`."""
        if first_pass := self._first.made:
            values_XD = self._rows(torch.from_numpy(self._vectors.take(rows_X)))
            if not first_pass.write(torch.from_numpy(rows_X), values_XD, self._vectors.shape[0]):
                self._first = _FirstPassState(self._large)

    def set_up(self) -> None:
        """Sets the first pass up where there is to be one, before it is needed."""
        self._set_up(_AFTER_QUERIES)

    def search(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Search`. Equal rows have equal scores, whichever rows are allowed."""
        rows_QK, scores_QK = none_found(queries_QD, k)
        left_Q = torch.ones(len(queries_QD), dtype=torch.bool)
        share = _TAKEN_SHARE_FOR_FEW if self._large and len(queries_QD) <= _FEW_QUERIES and is_fast() else _TAKEN_SHARE
        few = allowed is not None and allowed.count <= share * allowed.num_rows
        if k <= MOST_BEST and not few and (first_pass := self._set_up(len(queries_QD))):
            hidden_R = None if allowed is None else ~allowed.mask()
            sound_Q = first_pass.sound(queries_QD)
            for part_Q in sound_Q.split(queries_a_call(k)) if len(sound_Q) else ():
                asked_QD = queries_QD[part_Q]
                score = partial(self._scores, asked_QD)
                pairs = first_pass.pairs(asked_QD, k, excluded_QX[part_Q], score, hidden_R)
                self._first.num_refused = 0 if pairs else self._first.num_refused + 1
                if pairs:
                    rows_QK[part_Q], scores_QK[part_Q] = self._best(asked_QD, k, *pairs)
                    left_Q[part_Q] = False
                elif self._first.num_refused >= _REFUSALS:
                    self._first.pays, self._first.made = False, None
                    break
        if left_Q.any():
            found = self._by_products(queries_QD[left_Q], k, excluded_QX[left_Q], allowed, few)
            if self._large:  # scored again as after a first pass, so that a score does not say which way it was found
                found_QK = found[0].sort(dim=1).values
                query_P, place_P = (found_QK >= 0).nonzero(as_tuple=True)
                found = self._best(queries_QD[left_Q], k, query_P, found_QK[query_P, place_P])
            rows_QK[left_Q], scores_QK[left_Q] = found
        return rows_QK, scores_QK

    def _set_up(self, num_queries: int) -> FirstPass | None:
        """The first pass, once enough queries have been asked; None before, and while another thread sets it up."""
        first = self._first
        first.num_asked += num_queries
        if first.made or not first.pays or first.num_asked < _AFTER_QUERIES or not is_fast():
            return first.made
        if first.setting_up.acquire(blocking=False):
            try:
                name = self._vectors.name and f"{self._vectors.name}-codes{'-unit' * self._unit}"
                first.made = first.made or FirstPass(self._blocks, *self._vectors.shape, name)
            finally:
                first.setting_up.release()
        return first.made

    def _best(self, queries_QD: Tensor, k: int, query_P: Tensor, row_P: Tensor) -> tuple[Tensor, Tensor]:
        """The best rows and scores [Q, K] of pairs whose rows are in ascending order for each query."""
        score_P = self._scores(queries_QD, query_P, row_P)
        rows_QW, scores_QW = side_by_side(query_P, len(queries_QD), (row_P, -1), (score_P, float("-inf")))
        missing = (0, max(k - rows_QW.shape[1], 0))
        return best_of(pad(rows_QW, missing, value=-1), pad(scores_QW, missing, value=float("-inf")), k)

    def _scores(self, queries_QD: Tensor, query_P: Tensor, row_P: Tensor) -> Tensor:
        score_P = torch.empty(len(row_P))
        for first in range(0, len(row_P), _TAKEN):
            part = slice(first, first + _TAKEN)
            taken_PD = self._rows(torch.from_numpy(self._vectors.take(row_P[part].numpy())))
            # Element by element, so that equal rows have equal scores whatever stands beside them.
            score_P[part] = (taken_PD * queries_QD[query_P[part]]).sum(dim=1)
        return score_P

    def _by_products(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None, few: bool
    ) -> tuple[Tensor, Tensor]:
        """By float32 products of all rows, or of the `few` that are allowed."""
        rows_QK, scores_QK = none_found(queries_QD, k)
        if allowed is not None and few:
            found = (self._among(rows_N, queries_QD, k, excluded_QX) for rows_N in _pieces(allowed.rows()))
        else:
            mask_R = None if allowed is None else allowed.mask()
            found = (
                full_topk(
                    queries_QD,
                    k,
                    excluded_QX,
                    first,
                    block_BD,
                    None if mask_R is None else mask_R[first : first + len(block_BD)],
                )
                for first, block_BD in self._blocks()
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

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        for first, block_BD in self._vectors.blocks():
            yield first, self._rows(block_BD)

    def _rows(self, rows_BD: Tensor) -> Tensor:
        return normalize(rows_BD, dim=1) if self._unit else rows_BD


def none_found(queries_QD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The rows and scores [Q, K] of a search that finds nothing."""
    return torch.full((len(queries_QD), k), -1), torch.full((len(queries_QD), k), float("-inf"))


def _pieces(rows_N: np.ndarray) -> Iterator[np.ndarray]:
    return (rows_N[first : first + BLOCK_ROWS] for first in range(0, len(rows_N), BLOCK_ROWS))
