"""On a CPU, what is read of a product of scores while the cache has it: comparisons with the targets' scores, and each
group's maximum.

Comparisons are numpy's, over one dimension: its loops for that are some times as fast as torch's into bools, and as
numpy's own over two dimensions.

Shape legend: N products of a block, Q queries, B rows of a product, G groups of a product, S rows of a group, P pairs
of a query and a row.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipwise.models.topk import GROUP

_MOST_WORDS = 128
"""Words of eight bools that are added at once; a byte has room for 255."""


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
        values_NQB[-1, :, self.num_rows - (count - 1) * width :] = value
        values_NQB[self._places(width)] = value
        return values_NQB

    def of(self, values_NQB: Tensor) -> Tensor:
        """[P], the values of the excluded rows."""
        return values_NQB[self._places(values_NQB.shape[2])]

    def _places(self, width: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.column_P // width, self.query_P, self.column_P % width


class CachedSummary:
    """Of one block after another, which `begin` names."""

    def __init__(self, goals_Q: Tensor | None, maxima: bool = True):
        """`goals_Q`: the targets' scores, if rows are to be counted; `maxima`: whether those are wanted."""
        self._goals_Q, self._has_maxima = goals_Q, maxima

    def begin(self, block_NQB: Tensor) -> None:
        """The memory of the blocks."""
        self._block_NQB, (products, queries, rows) = block_NQB, block_NQB.shape
        if self._goals_Q is not None:
            self._goals = self._goals_Q[:, None].expand(queries, rows).contiguous().numpy().reshape(-1)
            self._at_most_NQB, self._below_NQB = torch.empty(2, *block_NQB.shape, dtype=torch.bool)
            flat = (values.numpy().reshape(products, -1) for values in (block_NQB, self._at_most_NQB, self._below_NQB))
            self._compared = list(zip(*flat, strict=True))
        if self._has_maxima:
            self._maxima_NQG = block_NQB.new_empty(products, queries, rows // GROUP)
            self._reduced = list(zip(_groups(block_NQB), self._maxima_NQG, strict=True))

    def read(self, place: int, num_rows: int) -> None:
        """Reads the product of this place, which has so many rows before its padding."""
        if num_rows < self._block_NQB.shape[2]:
            self._block_NQB[place, :, num_rows:] = float("-inf")
        if self._goals_Q is not None:
            scores, at_most, below = self._compared[place]
            np.less_equal(scores, self._goals, out=at_most)
            np.less(scores, self._goals, out=below)
        if self._has_maxima:
            scores_QGS, maxima_QG = self._reduced[place]
            torch.amax(scores_QGS, dim=2, out=maxima_QG)

    def counts(self, scores_NQB: Tensor, excluded: Excluded) -> Tensor:
        """int64 [2, Q]: rows of the block above and equal to the goals, without the excluded ones."""
        products, _, width = scores_NQB.shape
        at_most_Q, below_Q = (
            _row_sums(excluded(values_NQB[:products], True)) for values_NQB in (self._at_most_NQB, self._below_NQB)
        )
        return torch.stack([products * width - at_most_Q, at_most_Q - below_Q])

    def maxima(self, scores_NQB: Tensor, excluded: Excluded) -> Tensor:
        """The groups' maxima [Q, G] of all products. Sets what is excluded to minus infinity."""
        excluded(scores_NQB, float("-inf"))
        place_P, query_P = excluded.column_P // scores_NQB.shape[2], excluded.query_P
        group_P = excluded.column_P % scores_NQB.shape[2] // GROUP
        self._maxima_NQG[place_P, query_P, group_P] = _groups(scores_NQB)[place_P, query_P, group_P].amax(dim=1)
        return self._maxima_NQG[: scores_NQB.shape[0]].transpose(0, 1).reshape(scores_NQB.shape[1], -1)


def _groups(scores: Tensor) -> Tensor:
    """[..., B] as [..., G, S]."""
    return scores.view(*scores.shape[:-1], -1, GROUP)


def _row_sums(values_NQB: Tensor) -> Tensor:
    """int64 [Q], how many of a query's are true: eight bools are added as one number, whose bytes do not overflow."""
    words = values_NQB.view(torch.int64).sum(dim=0)
    words = words.view(len(words), -1, math.gcd(words.shape[1], _MOST_WORDS // len(values_NQB))).sum(dim=2)
    return words.view(torch.uint8).sum(dim=1)
