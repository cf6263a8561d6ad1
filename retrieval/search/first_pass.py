"""The first pass of the exact search: a byte a number tells which rows can be among the best.

Each column of the table is stored as codes of a byte, centre + step * code. A query times the steps, in 8 bits too, is
multiplied by the codes in whole numbers, for which processors have instructions several times as fast as float32's
(VNNI, AMX), over a quarter of the bytes. How far such a score may be from the inner product is bounded, so the rows
that are scored again in float32 hold all of the best; ties at the last place too.

The bound, in units of codes, for a query q' = q * step of norm 1 that is read as w, and a row (row - centre) / step = x
that is read as c: q' (x - c) + (q' - w) c <= |x - c| + |q' - w| |c|, and the rounding of what is computed in floats.

Shape legend: R rows of the table, D width, Q queries of a call, B rows of a block, G groups of a block, X rows to leave
out of a query, K best, P pairs of a query and a row, H pairs of a query and a group.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skipwise.models.topk import side_by_side

QUERIES = 64
"""Queries of a call: the more, the longer the scores take to be written and read."""
MOST_BEST = 256
"""The most best rows that are asked for; above it, too many rows are scored twice."""
GROUP = 32
"""Rows of a group: only groups whose best row may be among the best are read row by row."""
_BLOCK_SCORES = 1 << 20
"""2 MiB: larger ones are given back to the system, and are new pages each time."""
_BLOCK_ROWS = 1 << 16
_LEVELS = 127
"""Codes of -127 to 127, stored as 1 to 255."""
_ZERO = 128
_HALF_PLACE = 2.0**-8 * 1.01
"""The share of a bfloat16 that rounding to it has changed at most, and a little more."""
_FLOAT = 2.0**-20
"""More than the rounding of a sum of floats, for each of its terms' absolute values."""
_SMALLEST = 2.0**-60
"""Of the norms of queries; below it, and above its inverse, squares would leave the range of floats."""
_PAIRS_A_BEST, _PAIRS_A_ROW = 8, 1 / 256
"""Rows to score again for a query, for each of the best and for each row; more take longer than float32 for all."""

_MERGED_AFTER = {4**number for number in range(12)}
"""Blocks after which pairs that others surpass are left out."""

Blocks = Callable[[], Iterator[tuple[int, Tensor]]]
"""(first row, float32 [B, D]), in row order; the same at each call."""


def is_fast() -> bool:
    """Whether this machine multiplies bytes faster than floats."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported())


Score = Callable[[Tensor, Tensor], Tensor]
"""The scores [P] of pairs, queries [P] and rows [P]."""


class Pairs(NamedTuple):
    """Rows that may be among the best of a query; those of a query in ascending order."""

    query_P: Tensor
    row_P: Tensor


class FirstPass:
    """The codes of a table. Thread-safe."""

    def __init__(self, blocks: Blocks, num_rows: int, dim: int):
        """Reads the table twice."""
        low_D, high_D = torch.full((dim,), float("inf")), torch.full((dim,), float("-inf"))
        for _, block_BD in blocks():
            low_D = torch.minimum(low_D, block_BD.amin(dim=0))
            high_D = torch.maximum(high_D, block_BD.amax(dim=0))
        self._largest_D = torch.maximum(low_D.abs(), high_D.abs())
        self._centre_D, step_D = low_D / 2 + high_D / 2, (high_D / 2 - low_D / 2) / _LEVELS
        self._step_D = step_D.masked_fill(step_D == 0, 1.0)
        self._codes_RD = torch.empty(num_rows, dim, dtype=torch.uint8)
        off = norm = torch.zeros(())
        for first, block_BD in blocks():
            exact_BD = (block_BD - self._centre_D).div_(self._step_D)
            code_BD = exact_BD.round().clamp_(-_LEVELS, _LEVELS)
            norm = torch.maximum(norm, code_BD.norm(dim=1).max())
            off = torch.maximum(off, exact_BD.sub_(code_BD).norm(dim=1).max())
            self._codes_RD[first : first + len(block_BD)] = code_BD.add_(_ZERO)
        self._off, self._norm = float(off), float(norm)

    def sound(self, queries_QD: Tensor) -> Tensor:
        """The queries [Q] that `pairs` takes: those that are not zero, and whose scores are finite."""
        largest_Q = queries_QD.abs() @ torch.maximum(self._largest_D, self._step_D * _LEVELS)
        norm_Q = (queries_QD * self._step_D).norm(dim=1)
        return (largest_Q.isfinite() & (norm_Q > _SMALLEST) & (norm_Q < 1 / _SMALLEST)).nonzero().squeeze(1)

    def pairs(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, score: Score, hidden_R: Tensor | None = None
    ) -> Pairs | None:
        """Of 1 to `QUERIES` queries, all `sound`: pairs that hold the `k` best rows, without those of `excluded_QX`.

        `score` is what they will be scored by; `hidden_R`: bool, rows that no query may find. None is returned where
        too many rows score alike: the float32 search takes less.
        """
        scaled_QD = queries_QD * self._step_D
        norm_Q = scaled_QD.norm(dim=1)
        unit_QD = scaled_QD / norm_Q[:, None]
        scale_Q = unit_QD.abs().amax(dim=1) / _LEVELS
        code_QD = (unit_QD / scale_Q[:, None]).round()
        off_Q = (unit_QD - code_QD * scale_Q[:, None]).norm(dim=1)
        floats_Q = (queries_QD.abs() @ self._largest_D) / norm_Q + _LEVELS
        bound_Q = self._off + off_Q * self._norm + _FLOAT * self._codes_RD.shape[1] * floats_Q
        centre_Q = queries_QD @ self._centre_D

        def exact(query_P: Tensor, row_P: Tensor) -> Tensor:
            return (score(query_P, row_P) - centre_Q[query_P]) / norm_Q[query_P]

        packed = torch.ops.onednn.qlinear_prepack(code_QD.to(torch.int8), None)
        zeros_Q = torch.zeros(len(scale_Q), dtype=torch.int64)
        rows, most = _block_rows(len(queries_QD)), _PAIRS_A_BEST * k + round(_PAIRS_A_ROW * len(self._codes_RD))
        found = _Found(k, bound_Q, exact, most)
        starts = range(0, len(self._codes_RD), rows)
        for first, (row_P, query_P) in zip(starts, _by_block(excluded_QX, starts), strict=True):
            scores_BQ = torch.ops.onednn.qlinear_pointwise(
                self._codes_RD[first : first + rows],
                1.0,
                _ZERO,
                packed,
                scale_Q,
                zeros_Q,
                None,
                1.0,
                0,
                torch.bfloat16,
                "none",
                [],
                "",
            )
            if len(row_P):
                scores_BQ[row_P, query_P] = float("-inf")
            if hidden_R is not None:
                scores_BQ[hidden_R[first : first + rows]] = float("-inf")
            if not found.add(scores_BQ, first):
                return None
        return found.result()


def _by_block(excluded_QX: Tensor, starts: range) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs to leave out of each block: rows counted from its first, and queries."""
    query_P, place_P = (excluded_QX >= 0).nonzero(as_tuple=True)
    row_P, order_P = excluded_QX[query_P, place_P].sort()
    counts = (row_P // starts.step).bincount(minlength=len(starts)).tolist()
    yield from zip((row_P % starts.step).split(counts), query_P[order_P].split(counts), strict=True)


class _Found:
    """The pairs so far: all whose score may reach the K-th best."""

    def __init__(self, k: int, bound_Q: Tensor, exact: Score, most: int):
        """`most`: pairs of a query, in the mean of all."""
        self._k, self._bound_Q, self._exact = k, bound_Q, exact
        self._least_Q = torch.full_like(bound_Q, torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16)
        """What a row of the best scores at least in the first pass; above minus infinity, for rows left out."""
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._num_pairs = self._num_blocks = 0
        self._most = len(bound_Q) * most

    def add(self, scores_BQ: Tensor, first: int) -> bool:
        """Adds a block of bfloat16 scores; False where there are too many pairs."""
        if padding := -len(scores_BQ) % GROUP:
            scores_BQ = torch.nn.functional.pad(scores_BQ, (0, 0, 0, padding), value=float("-inf"))
        # Above 0, bfloat16 are ordered as their bits are, and those are compared several times as fast.
        order = torch.int16 if bool((self._least_Q > 0).all()) else torch.bfloat16
        groups_GSQ = scores_BQ.view(order).view(-1, GROUP, scores_BQ.shape[1])
        best_GQ = groups_GSQ.amax(dim=1)
        if not self._num_blocks and len(best_GQ) >= self._k:
            best_Q = best_GQ.float().topk(self._k, dim=0).values[-1]
            self._raise(best_Q - best_Q.abs() * _HALF_PLACE - self._bound_Q)
        least_Q = self._least_Q.view(order)
        group_H, query_H = (best_GQ >= least_Q).nonzero(as_tuple=True)
        if len(group_H) * GROUP > self._most * 8:
            return False
        scores_HS = groups_GSQ[group_H, :, query_H]
        place_P, column_P = (scores_HS >= least_Q[query_H, None]).nonzero(as_tuple=True)
        score_P = scores_HS[place_P, column_P].view(torch.bfloat16)
        row_P = first + group_H[place_P] * GROUP + column_P
        self._pairs.append((query_H[place_P], row_P, score_P))
        self._num_pairs, self._num_blocks = self._num_pairs + len(row_P), self._num_blocks + 1
        if self._num_blocks in _MERGED_AFTER or self._num_pairs > self._most:
            self._merge()
        return self._num_pairs <= self._most

    def result(self) -> Pairs:
        self._merge()
        query_P, row_P, _ = self._pairs[0]
        return Pairs(query_P, row_P)

    def _merge(self) -> None:
        """Leaves out the pairs that others surpass."""
        query_P, row_P, score_P = (torch.cat(pieces) for pieces in zip(*self._pairs, strict=True))
        rows_QW, scores_QW = side_by_side(query_P, len(self._bound_Q), (row_P, -1), (score_P, float("-inf")))
        if scores_QW.shape[1] >= self._k:
            scores_QK, place_QK = scores_QW.topk(self._k, dim=1)
            full_Q = (scores_QK[:, -1] > float("-inf")).nonzero().squeeze(1)
            if len(full_Q):
                rows_QK = rows_QW.gather(1, place_QK)[full_Q]
                exact_P = self._exact(full_Q.repeat_interleave(self._k), rows_QK.flatten())
                reached_Q = torch.full_like(self._bound_Q, float("-inf"))
                reached_Q[full_Q] = exact_P.view(rows_QK.shape).amin(dim=1)
                self._raise(reached_Q)
        kept_P = score_P >= self._least_Q[query_P]
        self._pairs = [(query_P[kept_P], row_P[kept_P], score_P[kept_P])]
        self._num_pairs = int(kept_P.sum())

    def _raise(self, reached_Q: Tensor) -> None:
        """`reached_Q`: K rows are known to score as much or more."""
        reached_Q = reached_Q - self._bound_Q
        least_Q = reached_Q - reached_Q.abs() * _HALF_PLACE
        # Rounding this to bfloat16 leaves out no bfloat16 that is at least as large.
        self._least_Q = torch.maximum(self._least_Q, least_Q.bfloat16())


def _block_rows(num_queries: int) -> int:
    """B: a multiple of groups, of the same size for nearly equal numbers of queries."""
    return min(_BLOCK_SCORES // num_queries, _BLOCK_ROWS) // GROUP * GROUP
