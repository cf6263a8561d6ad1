"""The K best rows of each query, over scores that arrive in blocks of ascending rows.

Shape legend: Q queries, N products of a block, B rows of a product, K best, G groups of a block, S rows of a group,
H groups that are buffered, P rows of theirs, W values of a query, or the most such rows of one.

Nearly all scores are below the K-th best so far. The maximum of a group of rows shows it for all of them, and only
the other groups are read row by row. They are buffered, since sorting a few rows takes as long as sorting many.
"""

import torch
from torch import Tensor

GROUP = 64
"""Rows of a group."""


class StreamingTopK:
    """A running top-K in descending order: NaN first, and of equal scores the lower row first.

    A row whose score is minus infinity is never part of it.
    """

    def __init__(self, num_queries: int, k: int, device: torch.device):
        self._k = k
        self._scores_QK = torch.full((num_queries, k), float("-inf"), device=device)
        self._rows_QK = torch.full((num_queries, k), -1, device=device)
        self._floor_Q: Tensor | None = None  # only scores above it matter
        self._buffer: list[tuple[Tensor, Tensor, Tensor]] = []  # query, first row and scores of each group

    def add(self, scores_NQB: Tensor, first: int, maxima_QG: Tensor | None = None) -> None:
        """Adds the scores of the rows from `first` on, which follow all rows before; B is a multiple of `GROUP`.

        `maxima_QG`: the `group_maxima` of the scores, if they are known.
        """
        if maxima_QG is None:
            maxima_QG = group_maxima(scores_NQB)
        if self._floor_Q is None:
            self._floor_Q = self._scores_QK[:, -1]
            self._raise_floor(scores_NQB, maxima_QG)
        query_H, group_H = self._passing(maxima_QG).nonzero(as_tuple=True)
        if len(query_H) > self._rows_QK.numel():
            query_H, group_H = self._few_passing(scores_NQB, maxima_QG)
        if not len(query_H):
            return
        groups, groups_NQGS = scores_NQB.shape[2] // GROUP, scores_NQB.view(*scores_NQB.shape[:2], -1, GROUP)
        scores_HS = groups_NQGS[group_H // groups, query_H, group_H % groups]
        self._buffer.append((query_H, first + group_H * GROUP, scores_HS))
        if sum(len(queries) for queries, _, _ in self._buffer) >= self._rows_QK.numel():
            self._merge_buffer()

    def result(self) -> tuple[Tensor, Tensor]:
        """(rows int64 [Q, K], scores [Q, K]); where there are fewer rows than K, row -1 with minus infinity."""
        self._merge_buffer()
        return self._rows_QK, self._scores_QK

    def _passing(self, maxima_QG: Tensor) -> Tensor:
        """Bool [Q, G], the groups with a row above the floor."""
        assert self._floor_Q is not None
        # Negated, so that NaN passes; and where the K-th best is NaN, no later row comes before it.
        return ~(maxima_QG <= self._floor_Q[:, None]) & ~self._floor_Q.isnan()[:, None]

    def _raise_floor(self, scores_NQB: Tensor, maxima_QG: Tensor) -> None:
        """To just below the K-th best of this block, so that scores equal to it pass and the lowest row is kept.

        Of more than K groups, to just below the K-th highest maximum, which is nearly as high and found sooner.
        """
        assert self._floor_Q is not None
        values_QW = maxima_QG if self._k < maxima_QG.shape[1] else _by_query(scores_NQB)
        if self._k <= values_QW.shape[1]:
            lowest_Q = values_QW.topk(self._k, dim=1).values[:, -1]
            lowest_Q = lowest_Q.masked_fill(lowest_Q.isnan(), float("-inf"))
            self._floor_Q = self._floor_Q.maximum(lowest_Q.nextafter(lowest_Q.new_tensor(float("-inf"))))

    def _few_passing(self, scores_NQB: Tensor, maxima_QG: Tensor) -> tuple[Tensor, Tensor]:
        """(query [H], group [H]) of at most K passing groups a query, which hold its K best rows of this block: those
        with the highest maxima, of equal ones the lowest."""
        self._raise_floor(scores_NQB, maxima_QG)
        passing_QG = self._passing(maxima_QG)
        if int(passing_QG.sum()) > self._rows_QK.numel():
            best_QK = maxima_QG.sort(dim=1, descending=True, stable=True).indices[:, : self._k]
            passing_QG &= torch.zeros_like(passing_QG).scatter_(1, best_QK, True)
        query_H, group_H = passing_QG.nonzero(as_tuple=True)
        return query_H, group_H

    def _merge_buffer(self) -> None:
        """Sorts the rows of the buffered groups into the best."""
        if not self._buffer:
            return
        assert self._floor_Q is not None
        query_H, first_H, scores_HS = (torch.cat(pieces) for pieces in zip(*self._buffer, strict=True))
        self._buffer = []
        place_P, column_P = (~(scores_HS <= self._floor_Q[query_H, None])).nonzero(as_tuple=True)
        row_P, score_P = first_H[place_P] + column_P, scores_HS[place_P, column_P]
        rows_QW, scores_QW = side_by_side(query_H[place_P], len(self._rows_QK), (row_P, -1), (score_P, float("-inf")))
        self._rows_QK, self._scores_QK = best_of(
            torch.cat([self._rows_QK, rows_QW], dim=1), torch.cat([self._scores_QK, scores_QW], dim=1), self._k
        )
        self._floor_Q = self._scores_QK[:, -1]


def group_maxima(scores_NQB: Tensor) -> Tensor:
    """The highest score of each group of rows, [Q, G]; NaN where one is NaN."""
    return _by_query(scores_NQB.view(*scores_NQB.shape[:2], -1, GROUP).amax(dim=3))


def _by_query(values_NQW: Tensor) -> Tensor:
    """[Q, N * W]: a query's values of all products."""
    return values_NQW.transpose(0, 1).flatten(1)


def best_of(rows_QW: Tensor, scores_QW: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first K (rows [Q, K], scores [Q, K]) by descending score; of equal scores, the one further left."""
    scores_QW, order_QW = scores_QW.sort(dim=1, descending=True, stable=True)
    return rows_QW.gather(1, order_QW[:, :k]), scores_QW[:, :k].contiguous()


def side_by_side(query_P: Tensor, num_queries: int, *columns: tuple[Tensor, float]) -> tuple[Tensor, ...]:
    """[Q, W] of each column [P]: a query's values in their order, behind them the value that the column names."""
    query_P, order_P = query_P.sort(stable=True)
    counts_Q = query_P.bincount(minlength=num_queries)
    place_P = torch.arange(len(query_P), device=query_P.device) - (counts_Q.cumsum(0) - counts_Q)[query_P]
    found = []
    for values_P, filler in columns:
        values_QW = values_P.new_full((num_queries, int(counts_Q.max())), filler)
        values_QW[query_P, place_P] = values_P[order_P]
        found.append(values_QW)
    return tuple(found)
