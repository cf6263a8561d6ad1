"""Ranking over a row-wise table: each rank scores its own rows, and the callers sum counts and scores over ranks.

Shape legend: Q queries of all ranks, R rows of this rank, B rows of a product or a block, D width, X rows to exclude
from a query, C candidates of a query, K best rows, G groups of a block, P pairs of a query and a row. `first` is this
rank's first row.

In full ranking a row's score is one float32 matrix product whose shape depends on Q and the kind of device alone,
[Q, D] by [D, B]; the last rows are padded to it, and targets are scored by it too. So equal rows have bitwise equal
scores on any rank; a product of another width may round differently. On a GPU a block is several such products, written
side by side. Callers set `torch.set_float32_matmul_precision("highest")`.
A row above the target has a higher score or one that is NaN; a tie is an equal score.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skipwise.models.fused_summary import is_fused, summarize
from skipwise.models.topk import GROUP, StreamingTopK

_BLOCK_SCORES = 1 << 21
"""Scores of a product, 8 MiB: they stay in the cache between the passes over them."""
_BLOCK_ROWS = 1 << 13
_CANDIDATE_QUERIES = 8
"""Queries whose candidates are scored at a time."""
_GPU_PRODUCT_SCORES, _GPU_PRODUCT_ROWS = 1 << 26, 1 << 14
"""Of one product on a GPU: enough to fill it."""
_GPU_BLOCK_SCORES, _GPU_BLOCK_ROWS = 1 << 30, 1 << 20
"""Of a block on a GPU, 4 GiB: its best rows cost half a millisecond of waiting, whatever its size."""
_GPU_MEMORY_PARTS = 32
"""A block takes at most one of so many parts of the device's memory."""
_GPU_CANDIDATE_NUMBERS = 1 << 25
"""Numbers of the rows gathered at a time on a GPU, 128 MiB."""


@dataclass(frozen=True)
class Excluded:
    """The rows of a block that are excluded from a query, and its padding."""

    num_rows: int
    """Rows before the padding."""
    query_P: Tensor
    column_P: Tensor

    def __call__(self, values_QB: Tensor, value: float) -> Tensor:
        """Sets values of the block to `value` there, and returns them."""
        values_QB[:, self.num_rows :] = value
        values_QB[self.query_P, self.column_P] = value
        return values_QB


class Counts(NamedTuple):
    """How many rows score above a target and how many as much as it, int64 [Q] each."""

    above_Q: Tensor
    ties_Q: Tensor


def full_target_scores(queries_QD: Tensor, target_Q: Tensor, first: int, rows_RD: Tensor) -> Tensor:
    """Scores [Q] of the targets that are this rank's, zero for others."""
    own_Q = (target_Q >= first) & (target_Q < first + len(rows_RD))
    scores_Q = queries_QD.new_zeros(len(target_Q))
    place_P, block_QB = own_Q.nonzero().squeeze(1), _block(queries_QD)  # of the same stride as where rows are scored
    for place_B in place_P.split(_product_rows(queries_QD)):
        scores_QB = _product(queries_QD, rows_RD[target_Q[place_B] - first], block_QB)
        scores_Q[place_B] = scores_QB[place_B, torch.arange(len(place_B), device=place_B.device)]
    return scores_Q


def full_counts(
    queries_QD: Tensor, scores_Q: Tensor, target_Q: Tensor, heard_QX: Tensor, first: int, rows_RD: Tensor
) -> tuple[Counts, Counts]:
    """Counts among this rank's rows, without the target's own: of rows that are not in `heard_QX`, and of those.

    `scores_Q`: the targets' scores; `heard_QX`: rows of each query, -1 is padding.
    """
    fresh_2Q = torch.zeros(2, len(queries_QD), dtype=torch.int64, device=queries_QD.device)
    heard_2Q = torch.zeros_like(fresh_2Q)
    excluded_QX = torch.cat([target_Q[:, None], heard_QX], dim=1)
    for start, scores_QB, excluded in score_blocks(queries_QD, excluded_QX, first, rows_RD):
        query_P, column_P = excluded.query_P, excluded.column_P
        score_P, own_P = scores_QB[query_P, column_P], start + column_P == target_Q[query_P]
        # Negated, so that a NaN is above.
        above_P = ~(score_P <= scores_Q[query_P]) & ~own_P
        ties_P = ~(score_P < scores_Q[query_P]) & ~own_P & ~above_P
        heard_2Q.index_add_(1, query_P, torch.stack([above_P, ties_P]).long())
        if is_fused(scores_QB.device):
            fresh_2Q += fused_summary(scores_QB, scores_Q, excluded)[0]
        else:
            fresh_2Q += above_and_ties(scores_QB, scores_Q, excluded)
    return Counts(*fresh_2Q), Counts(*heard_2Q)


def full_topk(
    queries_QD: Tensor, k: int, excluded_QX: Tensor, first: int, rows_RD: Tensor, allowed_R: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """This rank's best rows, int64 [Q, K], and their scores [Q, K], in `StreamingTopK`'s order.

    `allowed_R`: bool, the rows that may be among them; None for all.
    """
    best = StreamingTopK(len(queries_QD), k, queries_QD.device)
    for start, scores_QB, excluded in score_blocks(queries_QD, excluded_QX, first, rows_RD):
        if allowed_R is not None:
            allowed_B = allowed_R[start - first : start - first + excluded.num_rows]
            scores_QB[:, : excluded.num_rows].masked_fill_(~allowed_B, float("-inf"))
        excluded(scores_QB, float("-inf"))
        fused = is_fused(scores_QB.device)
        best.add(scores_QB, start, summarize(scores_QB, scores_QB[:, 0], excluded.num_rows)[1] if fused else None)
    return best.result()


def full_counts_and_topk(
    queries_QD: Tensor, k: int, scores_Q: Tensor, excluded_QX: Tensor, first: int, rows_RD: Tensor
) -> tuple[Counts, tuple[Tensor, Tensor]]:
    """In one pass, counts among this rank's rows that are not excluded, and what `full_topk` returns of them."""
    best = StreamingTopK(len(queries_QD), k, queries_QD.device)
    counts_2Q = torch.zeros(2, len(queries_QD), dtype=torch.int64, device=queries_QD.device)
    for start, scores_QB, excluded in score_blocks(queries_QD, excluded_QX, first, rows_RD):
        if is_fused(scores_QB.device):
            more_2Q, maxima_QG = fused_summary(scores_QB, scores_Q, excluded)
            best.add(scores_QB, start, maxima_QG)
        else:
            best.add(excluded(scores_QB, float("-inf")), start)
            more_2Q = above_and_ties(scores_QB, scores_Q, excluded)
        counts_2Q += more_2Q
    return Counts(*counts_2Q), best.result()


def candidate_counts(scores_QC: Tensor, scores_Q: Tensor, own_QC: Tensor) -> Counts:
    """Counts among the candidates of bool `own_QC`."""
    at_least_QC = ~(scores_QC < scores_Q[:, None]) & own_QC
    above_QC = ~(scores_QC <= scores_Q[:, None]) & own_QC
    above_Q = above_QC.sum(dim=1)
    return Counts(above_Q, at_least_QC.sum(dim=1) - above_Q)


def candidate_scores(queries_QD: Tensor, rows_QC: Tensor, first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [Q, C] of the rows `rows_QC`, zero for rows of other ranks, and a bool [Q, C] of this rank's own.

    Element-wise, so that equal rows have bitwise equal scores on any rank.
    """
    own_QC = (rows_QC >= first) & (rows_QC < first + len(rows_RD))
    scores_QC = queries_QD.new_zeros(rows_QC.shape)
    # A rank owns about 1 / world_size of the candidates: bring those to the front and score no others.
    width, all_C = int(own_QC.sum(dim=1).max()), torch.arange(rows_QC.shape[1], device=rows_QC.device)
    own_first_QC = all_C.expand(rows_QC.shape)
    if width < len(all_C):
        own_first_QC = own_QC.to(torch.int8).argsort(dim=1, descending=True)[:, :width]
    local_QC = (rows_QC.gather(1, own_first_QC) - first).clamp(0, max(len(rows_RD) - 1, 0))
    queries = _CANDIDATE_QUERIES
    if queries_QD.is_cuda:
        queries = max(_GPU_CANDIDATE_NUMBERS // max(width * queries_QD.shape[1], 1), 1)
    for start in range(0, len(rows_QC), queries):
        part = slice(start, start + queries)
        chosen = torch.nn.functional.embedding(local_QC[part], rows_RD).to(queries_QD.dtype)
        products = chosen.mul_(queries_QD[part, None])
        scores_QC[part].scatter_(1, own_first_QC[part], products.sum(-1))
    return scores_QC * own_QC, own_QC


def score_blocks(
    queries_QD: Tensor, excluded_QX: Tensor, first: int, rows_RD: Tensor
) -> Iterator[tuple[int, Tensor, Excluded]]:
    """The first row, the scores [Q, B] and the excluded rows of each block; the next block overwrites the scores."""
    height, block_QB = _product_rows(queries_QD), _block(queries_QD)
    step = height if block_QB is None else block_QB.shape[1]
    excluded_QX = distinct(excluded_QX)
    query_P, place_P = ((excluded_QX >= first) & (excluded_QX < first + len(rows_RD))).nonzero(as_tuple=True)
    row_P, order_P = (excluded_QX[query_P, place_P] - first).sort()
    query_P = query_P[order_P]
    starts = torch.arange(0, len(rows_RD) + step, step, device=row_P.device)
    edges = torch.searchsorted(row_P, starts).tolist()
    for number, start in enumerate(range(0, len(rows_RD), step)):
        block_BD = rows_RD[start : start + step]
        pairs = slice(edges[number], edges[number + 1])
        excluded = Excluded(len(block_BD), query_P[pairs], row_P[pairs] - start)
        if block_QB is None:
            scores_QB = _product(queries_QD, block_BD)
        else:
            pieces = block_BD.split(height)
            for place, piece_BD in enumerate(pieces):
                _product(queries_QD, piece_BD, block_QB[:, place * height :])
            scores_QB = block_QB[:, : len(pieces) * height]
        yield first + start, scores_QB, excluded


def distinct(rows_QX: Tensor) -> Tensor:
    """The rows of each query once, -1 in the place of the others."""
    sorted_QX = rows_QX.sort(dim=1).values
    repeats_QX = torch.nn.functional.pad(sorted_QX[:, 1:] == sorted_QX[:, :-1], (1, 0), value=False)
    return sorted_QX.masked_fill(repeats_QX, -1)


def above_and_ties(scores_QB: Tensor, scores_Q: Tensor, excluded: Excluded) -> Tensor:
    """int64 [2, Q]: rows of a block above and equal to `scores_Q`. Overwrites the block's scores."""
    if scores_QB.is_cuda:  # a quarter of the bytes
        at_most_Q = excluded(scores_QB <= scores_Q[:, None], True).sum(dim=1, dtype=torch.int32).long()
        below_Q = excluded(scores_QB < scores_Q[:, None], True).sum(dim=1, dtype=torch.int32).long()
    else:
        # Comparing into floats and summing those is vectorized; comparing into bools is not.
        at_most_Q = excluded(scores_QB.clone().le_(scores_Q[:, None]), 1.0).sum(dim=1).long()
        below_Q = excluded(scores_QB.lt_(scores_Q[:, None]), 1.0).sum(dim=1).long()
    return torch.stack([scores_QB.shape[1] - at_most_Q, at_most_Q - below_Q])


def fused_summary(scores_QB: Tensor, scores_Q: Tensor, excluded: Excluded) -> tuple[Tensor, Tensor]:
    """`above_and_ties` and the groups' maxima [Q, G] in one pass. Sets what is excluded to minus infinity."""
    counts_2Q, maxima_QG = summarize(excluded(scores_QB, float("-inf")), scores_Q, excluded.num_rows)
    # What is excluded has been counted as a score of minus infinity; it is to count as one below.
    missed_2Q = torch.stack([~(scores_Q >= float("-inf")), ~(scores_Q > float("-inf"))]).int()
    at_most_Q, below_Q = counts_2Q.index_add_(1, excluded.query_P, missed_2Q[:, excluded.query_P]).long()
    return torch.stack([excluded.num_rows - at_most_Q, at_most_Q - below_Q]), maxima_QG


def _product_rows(queries_QD: Tensor) -> int:
    """B of a product: a multiple of `StreamingTopK`'s groups, from Q and the kind of device alone, so that all ranks
    round alike."""
    scores, rows = (_GPU_PRODUCT_SCORES, _GPU_PRODUCT_ROWS) if queries_QD.is_cuda else (_BLOCK_SCORES, _BLOCK_ROWS)
    return max(min(scores // max(len(queries_QD), 1), rows) // GROUP, 1) * GROUP


def _block(queries_QD: Tensor) -> Tensor | None:
    """[Q, B] for the products of a block, from Q and the device alone; None where a block is one product."""
    if not queries_QD.is_cuda:
        return None
    height = _product_rows(queries_QD)
    memory = torch.cuda.get_device_properties(queries_QD.device).total_memory
    scores = min(_GPU_BLOCK_SCORES, memory // _GPU_MEMORY_PARTS // queries_QD.element_size())
    products = max(min(scores // max(len(queries_QD) * height, 1), _GPU_BLOCK_ROWS // height), 1)
    return queries_QD.new_empty(len(queries_QD), products * height)


def _product(queries_QD: Tensor, rows_BD: Tensor, block_QB: Tensor | None = None) -> Tensor:
    """Scores [Q, B] of up to B rows, padded by zeros; on a GPU, in the first columns of a block."""
    height = _product_rows(queries_QD)
    rows_BD = rows_BD.to(queries_QD.dtype)
    if len(rows_BD) < height:
        rows_BD = torch.nn.functional.pad(rows_BD, (0, 0, 0, height - len(rows_BD)))
    if queries_QD.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # oneDNN's product in full float32; `@` would call MKL, which has half that throughput on AMD CPUs.
        return torch.ops.mkldnn._linear_pointwise(queries_QD, rows_BD, None, "none", [], "")
    return torch.mm(queries_QD, rows_BD.T, out=None if block_QB is None else block_QB[:, :height])
