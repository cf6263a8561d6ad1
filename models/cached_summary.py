"""On a CPU, what is read of a product of scores while the cache has it: comparisons with the targets' scores, and each
group's maximum.

Comparisons are numpy's, over one dimension: its loops for that are some times as fast as torch's into bools, and as
numpy's own over two dimensions.

Shape legend: N products of a block, Q queries, B rows of a product, G groups of a product, S rows of a group, P pairs
of a query and a row, W words of eight comparisons of a query, C sums of X such words.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipwise.models.topk import GROUP

_MOST_WORDS = 128
"""Words of eight bools that are added to one, of all products of a block; a byte has room for 255."""


@dataclass(frozen=True)
class Excluded:
    """The rows of a block that are excluded from a query, and its padding."""

    num_rows: int
    """Rows before the padding, which is at the end of the last product."""
    query_P: Tensor
    column_P: Tensor

    def __call__(self, values_NQB: Tensor, value: float) -> Tensor:
        """Sets values of the block to `value` there, and returns them."""
        count, _, width = values_NQB.shape
        if self.num_rows < count * width:
            values_NQB[-1, :, self.num_rows - (count - 1) * width :] = value
        values_NQB[self.places(width)] = value
        return values_NQB

    def of(self, values_NQB: Tensor) -> Tensor:
        """[P], the values of the excluded rows."""
        return values_NQB[self.places(values_NQB.shape[2])]

    def places(self, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Products, queries and columns [P], of products of so many rows."""
        return self.column_P // width, self.query_P, self.column_P % width


class CachedSummary:
    """Of one block after another, all in the memory that `begin` is given."""

    def __init__(self, goals_Q: Tensor | None, maxima: bool = True):
        """`goals_Q`: the targets' scores, if rows are to be counted; `maxima`: whether those are wanted."""
        self._goals_Q, self._has_maxima = goals_Q, maxima

    def begin(self, block_NQB: Tensor) -> None:
        """`block_NQB`: what each block is written to."""
        self._block_NQB, (products, queries, rows) = block_NQB, block_NQB.shape
        if self._goals_Q is not None:
            self._goals = self._goals_Q[:, None].expand(queries, rows).contiguous().numpy().reshape(-1)
            self._scores = list(block_NQB.numpy().reshape(products, -1))
            # Eight bools are added as one number, whose bytes do not overflow.
            words = rows // 8
            words_QW = torch.empty(queries, words, dtype=torch.int64)
            self._compared = words_QW.numpy().reshape(-1).view(np.bool_)
            self._words_QCX = words_QW.view(queries, -1, math.gcd(words, _MOST_WORDS // products))
            self._at_most_NQC, self._below_NQC = torch.empty(2, products, *self._words_QCX.shape[:2], dtype=torch.int64)
        if self._has_maxima:
            self._maxima_NQG = block_NQB.new_empty(products, queries, rows // GROUP)
            self._reduced = list(zip(_groups(block_NQB), self._maxima_NQG, strict=True))

    def read(self, place: int, num_rows: int) -> None:
        """Reads the product of this place, which has so many rows before its padding."""
        if num_rows < self._block_NQB.shape[2]:
            self._block_NQB[place, :, num_rows:] = float("-inf")
        if self._goals_Q is not None:
            for compare, sums_NQC in ((np.less_equal, self._at_most_NQC), (np.less, self._below_NQC)):
                compare(self._scores[place], self._goals, out=self._compared)
                torch.sum(self._words_QCX, dim=2, out=sums_NQC[place])
        if self._has_maxima:
            scores_QGS, maxima_QG = self._reduced[place]
            torch.amax(scores_QGS, dim=2, out=maxima_QG)

    def counts(self, scores_NQB: Tensor, excluded: Excluded) -> Tensor:
        """int64 [2, Q]: rows of the block above and equal to the goals, without the excluded ones."""
        assert self._goals_Q is not None
        products, _, width = scores_NQB.shape
        score_P, goal_P = excluded.of(scores_NQB), self._goals_Q[excluded.query_P]
        # What is excluded is to count as below, and so is padding, which was counted as minus infinity.
        missed_2P = torch.stack([~(score_P <= goal_P), ~(score_P < goal_P)]).long()
        counts_2Q = torch.stack([_bytes_sum(of[:products]) for of in (self._at_most_NQC, self._below_NQC)])
        counts_2Q.index_add_(1, excluded.query_P, missed_2P)
        if padding := products * width - excluded.num_rows:
            lowest = float("-inf")
            counts_2Q += padding * torch.stack([~(self._goals_Q >= lowest), ~(self._goals_Q > lowest)])
        at_most_Q, below_Q = counts_2Q
        return torch.stack([products * width - at_most_Q, at_most_Q - below_Q])

    def maxima(self, scores_NQB: Tensor, excluded: Excluded) -> Tensor:
        """The groups' maxima [Q, G] of all products. Sets what is excluded to minus infinity, after `counts`."""
        excluded(scores_NQB, float("-inf"))
        place_P, query_P, column_P = excluded.places(scores_NQB.shape[2])
        of_groups = place_P, query_P, column_P // GROUP
        self._maxima_NQG[of_groups] = _groups(scores_NQB)[of_groups].amax(dim=1)
        return self._maxima_NQG[: scores_NQB.shape[0]].transpose(0, 1).reshape(scores_NQB.shape[1], -1)


def _groups(scores: Tensor) -> Tensor:
    """[..., B] as [..., G, S]."""
    return scores.view(*scores.shape[:-1], -1, GROUP)


def _bytes_sum(sums_NQC: Tensor) -> Tensor:
    """int64 [Q], the sum of all bytes of a query's numbers, which do not overflow when products are added."""
    return sums_NQC.sum(dim=0).view(torch.uint8).sum(dim=1)
