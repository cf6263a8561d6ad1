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
from torch.nn.functional import pad

from skipwise.models.topk import side_by_side
from skipwise.retrieval.search.row_codes import LEVELS, ROOM, ZERO, Blocks, RowCodes

_QUERIES, _QUERIES_FOR_MANY = 256, 64
"""Queries of a call: products of many take less for each. Blocks then have fewer rows, so that the first one says less
about the best, of which more than `_FEW_BEST` are many."""
_FEW_BEST = 64
MOST_BEST = 256
"""The most best rows that are asked for; above it, too many rows are scored twice."""
GROUP = 32
"""Rows of a group: only groups whose best row may be among the best are read row by row."""
_QUERIES_MULTIPLE, _FEW_MULTIPLE = 16, 8
"""Of the queries of a call, and of a few of them, the others being 0: products of as many take as long as of two."""
_LAST_MULTIPLE = ROOM
"""Of the rows of the last block."""
_BLOCK_BYTES = 1 << 22
"""Those of the first block are four times as many; above 32 MiB the system has them back, and gives new ones."""
_BLOCK_ROWS = 1 << 20
_MOST_LEVEL, _LEVELS_OF_SPAN = 255, 200
"""The level of all scores above, and the levels between the least that matters and the best of the first block."""
_LEAST_UNIT = 2.0**-16
"""Of a level, for each unit of the least score: so that levels are right by float32's numbers."""
_FLOAT = 2.0**-20
"""More than the rounding of a sum of floats, for each of its terms' absolute values."""
_SMALLEST = 2.0**-60
"""Of the norms of queries; below it, and above its inverse, squares would leave the range of floats."""
_PAIRS_A_BEST, _PAIRS_A_ROW = 8, 1 / 256
"""Rows to score again for a query, for each of the best and for each row; more take longer than float32 for all."""

_MERGED_AFTER = {2**number for number in range(24)}
"""Blocks after which pairs that others surpass are left out."""


def is_fast() -> bool:
    """Whether this machine multiplies bytes faster than floats."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported())


Score = Callable[[Tensor, Tensor], Tensor]
"""The scores [P] of pairs, queries [P] and rows [P]."""


def queries_a_call(k: int) -> int:
    """The most queries of a call of `FirstPass.pairs` for the `k` best."""
    return _QUERIES if k <= _FEW_BEST else _QUERIES_FOR_MANY


class Pairs(NamedTuple):
    """Rows that may be among the best of a query; those of a query in ascending order."""

    query_P: Tensor
    row_P: Tensor


class FirstPass:
    """The first pass over a table. Thread-safe, but while rows are written."""

    def __init__(self, blocks: Blocks, num_rows: int, dim: int, name: str = ""):
        """See `RowCodes`."""
        self._codes = RowCodes(blocks, num_rows, dim, name)

    def write(self, row_X: Tensor, values_XD: Tensor, num_rows: int) -> bool:
        """See `RowCodes`; nobody may be searching."""
        return self._codes.write(row_X, values_XD, num_rows)

    def sound(self, queries_QD: Tensor) -> Tensor:
        """The queries [Q] that `pairs` takes: those that are not zero, and whose scores are finite."""
        largest_Q = queries_QD.abs() @ torch.maximum(self._codes.largest_D, self._codes.step_D * LEVELS)
        norm_Q = (queries_QD * self._codes.step_D).norm(dim=1)
        return (largest_Q.isfinite() & (norm_Q > _SMALLEST) & (norm_Q < 1 / _SMALLEST)).nonzero().squeeze(1)

    def pairs(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, score: Score, hidden_R: Tensor | None = None
    ) -> Pairs | None:
        """Of 1 to `queries_a_call(k)` queries, all `sound`: pairs that hold the `k` best rows.

        Without those of `excluded_QX`. `score` is what they will be scored by; `hidden_R`: bool, rows that no query may
        find. None is returned where too many rows score alike: the float32 search takes less.
        """
        codes, num_queries = self._codes, len(queries_QD)
        scaled_QD = queries_QD * codes.step_D
        norm_Q = scaled_QD.norm(dim=1)
        unit_QD = scaled_QD / norm_Q[:, None]
        scale_Q = unit_QD.abs().amax(dim=1) / LEVELS
        code_QD = (unit_QD / scale_Q[:, None]).round()
        off_Q = (unit_QD - code_QD * scale_Q[:, None]).norm(dim=1)
        floats_Q = (queries_QD.abs() @ codes.largest_D) / norm_Q + LEVELS
        bound_Q = codes.off + off_Q * codes.norm + _FLOAT * queries_QD.shape[1] * floats_Q
        centre_Q = queries_QD @ codes.centre_D

        def exact(query_P: Tensor, row_P: Tensor) -> Tensor:
            return (score(query_P, row_P) - centre_Q[query_P]) / norm_Q[query_P]

        # Of few sizes, as oneDNN compiles a kernel for each.
        padding = _padding(num_queries)
        packed = torch.ops.onednn.qlinear_prepack(pad(code_QD, (0, 0, 0, padding)).to(torch.int8), None)

        rows, most = _block_rows(num_queries + padding), _PAIRS_A_BEST * k + round(_PAIRS_A_ROW * codes.num_rows)
        found = _Found(k, bound_Q, padding, exact, most)
        starts = range(0, codes.num_rows, rows)
        for first, (row_P, query_P) in zip(starts, _by_block(excluded_QX, starts), strict=True):
            there = min(codes.num_rows - first, rows)
            codes_BD = codes.codes_CD[first : first + -(-there // _LAST_MULTIPLE) * _LAST_MULTIPLE]
            scale = found.scale
            if scale is None:
                scores_BQ, nothing = _product(codes_BD, packed, pad(scale_Q, (0, padding)), None), float("-inf")
            else:
                levels = scale_Q / scale.unit_Q, scale.zero_Q
                scores_BQ, nothing = _product(codes_BD, packed, *(pad(of, (0, padding)) for of in levels)), 0
            scores_BQ[there:] = nothing
            scores_BQ[row_P, query_P] = nothing
            if hidden_R is not None:
                scores_BQ[:there][hidden_R[first : first + there]] = nothing
            if not found.add(scores_BQ, scale, first):
                return None
        return found.result()


def _product(codes_BD: Tensor, packed: Tensor, factor_Q: Tensor, added_Q: Tensor | None) -> Tensor:
    """Whole-number products [B, Q] with `packed` queries, times `factor_Q`: float32, or with `added_Q` uint8."""
    zeros_Q, dtype = torch.zeros(len(factor_Q), dtype=torch.int64), torch.float32 if added_Q is None else torch.uint8
    scores_BQ: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes_BD, 1.0, ZERO, packed, factor_Q, zeros_Q, added_Q, 1.0, 0, dtype, "none", [], ""
    )
    return scores_BQ


def _by_block(excluded_QX: Tensor, starts: range) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs to leave out of each block: rows counted from its first, and queries."""
    query_P, place_P = (excluded_QX >= 0).nonzero(as_tuple=True)
    row_P, order_P = excluded_QX[query_P, place_P].sort()
    counts = (row_P // starts.step).bincount(minlength=len(starts)).tolist()
    yield from zip((row_P % starts.step).split(counts), query_P[order_P].split(counts), strict=True)


class _Scale(NamedTuple):
    """What turns a score into a level of a byte: 0 below the least that matters, then one more for each unit.

    So a block of scores is a byte each, nearly all of them 0.
    """

    unit_Q: Tensor
    least_Q: Tensor

    @property
    def zero_Q(self) -> Tensor:
        """What is added to a score in units, so that the least that matters is level 1."""
        return 1 - self.least_Q / self.unit_Q


class _Found:
    """The pairs so far: all whose score may reach the K-th best."""

    def __init__(self, k: int, bound_Q: Tensor, padding: int, exact: Score, most: int):
        """`padding`: columns of scores behind those of queries; `most`: pairs of a query, in the mean of all."""
        self._k, self._bound_Q, self._exact, self._width = k, bound_Q, exact, len(bound_Q) + padding
        self._least_Q = torch.full_like(bound_Q, torch.finfo(torch.float32).min)
        """What a row of the best scores at least in the first pass; above minus infinity, for rows left out."""
        self._unit_Q: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        """Query, row, and what the row scores at most in the first pass."""
        self._num_pairs = self._num_blocks = 0
        self._most = len(bound_Q) * most

    @property
    def scale(self) -> _Scale | None:
        """Of the next block; None, for scores as they are, while K rows are not known yet."""
        return None if self._unit_Q is None else _Scale(self._unit_Q, self._least_Q)

    def add(self, scores_BQ: Tensor, scale: _Scale | None, first: int) -> bool:
        """Adds a block of float32 scores, or of levels by `scale`; False where there are too many pairs."""
        num_queries = len(self._bound_Q)
        groups_SC = scores_BQ.view(GROUP, -1)  # rows B / GROUP apart: maxima of contiguous numbers are the fastest
        best_C = groups_SC.amax(dim=0)
        if scale is None:
            best_GQ = best_C.view(-1, self._width)[:, :num_queries]
            if len(best_GQ) >= self._k:
                self._raise(best_GQ.topk(self._k, dim=0).values[-1] - self._bound_Q)
                self._set_unit(best_GQ.amax(dim=0))
            group_H, query_H = (best_GQ >= self._least_Q).nonzero(as_tuple=True)
            scores_SH = groups_SC[:, group_H * self._width + query_H]
            place_P, taken_P = (scores_SH >= self._least_Q[query_H]).nonzero(as_tuple=True)
            group_P, query_P, score_P = group_H[taken_P], query_H[taken_P], scores_SH[place_P, taken_P]
        else:
            word_H = best_C.view(torch.int64).nonzero().squeeze(1)  # eight columns at a time
            levels_SH = groups_SC.view(torch.int64)[:, word_H].view(torch.uint8)
            place_P, taken_P = levels_SH.nonzero(as_tuple=True)
            column_P, level_P = word_H[taken_P // 8] * 8 + taken_P % 8, levels_SH[place_P, taken_P]
            group_P, query_P = column_P // self._width, column_P % self._width
            score_P = scale.least_Q[query_P] + scale.unit_Q[query_P] * level_P
            score_P[level_P == _MOST_LEVEL] = float("inf")
        row_P = first + place_P * (len(scores_BQ) // GROUP) + group_P
        self._pairs.append((query_P, row_P, score_P))
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
        self._least_Q = torch.maximum(self._least_Q, reached_Q - self._bound_Q)

    def _set_unit(self, most_Q: Tensor) -> None:
        """`most_Q`: what a row scores in the first pass."""
        if not (self._least_Q > torch.finfo(torch.float32).min).all():
            return
        span_Q = (most_Q - self._least_Q) / _LEVELS_OF_SPAN
        self._unit_Q = torch.maximum(torch.maximum(self._bound_Q / 8, span_Q), self._least_Q.abs() * _LEAST_UNIT)


def _padding(num_queries: int) -> int:
    """Queries of 0 behind those of a call: none behind a single one, whose scores are then few."""
    multiple = _FEW_MULTIPLE if num_queries <= _FEW_MULTIPLE else _QUERIES_MULTIPLE
    return -num_queries % multiple if num_queries > 1 else 0


def _block_rows(num_queries: int) -> int:
    """B: of the same size for nearly equal numbers of queries."""
    return max(min(_BLOCK_BYTES // num_queries, _BLOCK_ROWS) // _LAST_MULTIPLE, 1) * _LAST_MULTIPLE
