"""The K best rows of each query, kept while scores pass by in blocks of ascending rows.

Shape legend: Q queries, B rows of a block, K best, G groups of a block, H groups looked into, P rows that wait, W the
most rows that wait for one query.

Nearly all scores lie below the K-th best so far. One maximum for each group of rows shows that, and only a group whose
maximum does not is looked into. Rows above wait until there are many, since sorting a few is as dear as sorting many.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from skipwise.common.distributed import world_size

GROUP = 64
"""Rows of a group."""


class Best:
    """Best first: a score that is not a number before all others, equal scores by the lower row.

    A row of score minus infinity is never among them.
    """

    def __init__(self, queries: int, k: int, device: torch.device):
        self._k = k
        self._scores_QK = torch.full((queries, k), float("-inf"), device=device)
        self._rows_QK = torch.full((queries, k), -1, device=device)
        self._floor_Q: Tensor | None = None  # only scores above it matter
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # query, row and score of each

    def add(self, scores_QB: Tensor, first: int) -> None:
        """Takes in the rows from `first` on, which are above all rows before; B is a multiple of `GROUP`."""
        if self._floor_Q is None:
            self._floor_Q = self._first_floor(scores_QB)
        groups_QGS = scores_QB.view(len(scores_QB), -1, GROUP)
        # Negated, so that what is not a number passes; and where the K-th best is none, no later row comes before it.
        open_QG = ~(groups_QGS.amax(dim=2) <= self._floor_Q[:, None]) & ~self._floor_Q.isnan()[:, None]
        query_H, group_H = open_QG.nonzero(as_tuple=True)
        if not len(query_H):
            return
        scores_HS = groups_QGS[query_H, group_H]
        place_P, column_P = (~(scores_HS <= self._floor_Q[query_H, None])).nonzero(as_tuple=True)
        row_P = first + group_H[place_P] * GROUP + column_P
        self._waiting.append((query_H[place_P], row_P, scores_HS[place_P, column_P]))
        if sum(len(rows) for _, rows, _ in self._waiting) > self._rows_QK.numel():
            self._settle()

    def result(self) -> tuple[Tensor, Tensor]:
        """(rows int64 [Q, K], scores [Q, K]); where there are fewer rows than K, row -1 with minus infinity."""
        self._settle()
        return self._rows_QK, self._scores_QK

    def _first_floor(self, scores_QB: Tensor) -> Tensor:
        """Just below the K-th best of the first block, so that those equal to it pass and the lowest row is kept."""
        if self._k > scores_QB.shape[1]:
            return self._scores_QK[:, -1]
        lowest_Q = scores_QB.topk(self._k, dim=1).values[:, -1]
        lowest_Q = lowest_Q.masked_fill(lowest_Q.isnan(), float("-inf"))
        return torch.nextafter(lowest_Q, lowest_Q.new_tensor(float("-inf")))

    def _settle(self) -> None:
        """Sorts those that wait into the best."""
        if not self._waiting:
            return
        query_P, row_P, score_P = (torch.cat(pieces) for pieces in zip(*self._waiting, strict=True))
        self._waiting = []
        query_P, order_P = query_P.sort(stable=True)  # a query's rows stay in ascending order
        counts_Q = query_P.bincount(minlength=len(self._rows_QK))
        place_P = torch.arange(len(query_P), device=query_P.device) - (counts_Q.cumsum(0) - counts_Q)[query_P]
        rows_QW = self._rows_QK.new_full((len(counts_Q), int(counts_Q.max())), -1)
        scores_QW = self._scores_QK.new_full(rows_QW.shape, float("-inf"))
        rows_QW[query_P, place_P] = row_P[order_P]
        scores_QW[query_P, place_P] = score_P[order_P]
        self._rows_QK, self._scores_QK = best_of(
            torch.cat([self._rows_QK, rows_QW], dim=1), torch.cat([self._scores_QK, scores_QW], dim=1), self._k
        )
        self._floor_Q = self._scores_QK[:, -1]


def merge_best(rows_QK: Tensor, scores_QK: Tensor) -> tuple[Tensor, Tensor]:
    """The best of all ranks' `full_topk`, equal on every rank: only K numbers a query and rank travel."""
    if world_size() == 1:
        return rows_QK, scores_QK
    gathered = []
    for values_QK in (rows_QK, scores_QK):
        pieces = [torch.empty_like(values_QK) for _ in range(world_size())]
        dist.all_gather(pieces, values_QK.contiguous())
        gathered.append(torch.cat(pieces, dim=1))  # in rank order, which is row order
    return best_of(*gathered, rows_QK.shape[1])


def best_of(rows_QW: Tensor, scores_QW: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first K (rows [Q, K], scores [Q, K]) by descending score; of equals, those that stand further left."""
    scores_QW, order_QW = scores_QW.sort(dim=1, descending=True, stable=True)
    return rows_QW.gather(1, order_QW[:, :k]), scores_QW[:, :k].contiguous()
