"""Ranking over a row-wise table: each rank scores its own rows, and the callers sum counts and scores over ranks.

Shape legend: Q queries of all ranks, R rows of this rank, B rows of a product, N products of a block (on a GPU they are
written side by side, as one of more rows), D width, X rows to exclude from a query, C candidates of a query, K best
rows, G groups of a block, P pairs of a query and a row. `first` is this rank's first row.

In full ranking a row's score is one float32 matrix product whose shape depends on Q and the kind of device alone,
[Q, D] by [D, B]; the last rows are padded to it, and targets are scored by it too. So equal rows have bitwise equal
scores on any rank; a product of another width may round differently. On a CPU a product stays in one core's cache while
it is read, and each thread has rows of its own, as a rank has, so that no thread reads what another one wrote. Callers
set `torch.set_float32_matmul_precision("highest")`.
A row above the target has a higher score or one that is NaN; a tie is an equal score.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from skipwise.models.cached_summary import CachedSummary, Excluded
from skipwise.models.fused_summary import is_fused, summarize
from skipwise.models.row_threads import by_threads
from skipwise.models.topk import GROUP, StreamingTopK, best_of

_BLOCK_SCORES = 1 << 17
"""Scores of a product, 512 KiB: with what they are compared to, they stay in a core's cache between the passes."""
_BLOCK_ROWS = 1 << 13
_BLOCK_PRODUCTS = 8
"""Of a block: small operations are done once for all of them."""
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


class Counts(NamedTuple):
    """How many rows score above a target and how many as much as it, int64 [Q] each."""

    above_Q: Tensor
    ties_Q: Tensor


def full_target_scores(queries_QD: Tensor, target_Q: Tensor, first: int, rows_RD: Tensor) -> Tensor:
    """Scores [Q] of the targets that are this rank's, zero for others."""
    own_Q = (target_Q >= first) & (target_Q < first + len(rows_RD))
    scores_Q = queries_QD.new_zeros(len(target_Q))
    height, place_P = _product_rows(queries_QD), own_Q.nonzero().squeeze(1)
    scores_QB = _block(queries_QD)[0, :, :height]  # of the same stride as where rows are scored
    for place_B in place_P.split(height):
        _product(queries_QD, rows_RD[target_Q[place_B] - first], scores_QB)
        scores_Q[place_B] = scores_QB[place_B, torch.arange(len(place_B), device=place_B.device)]
    return scores_Q


def full_counts(
    queries_QD: Tensor, scores_Q: Tensor, target_Q: Tensor, heard_QX: Tensor, first: int, rows_RD: Tensor
) -> tuple[Counts, Counts]:
    """Counts among this rank's rows, without the target's own: of rows that are not in `heard_QX`, and of those.

    `scores_Q`: the targets' scores; `heard_QX`: rows of each query, -1 is padding.
    """
    excluded_QX = torch.cat([target_Q[:, None], heard_QX], dim=1)

    def of_part(first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor]:
        fresh_2Q = torch.zeros(2, len(queries_QD), dtype=torch.int64, device=queries_QD.device)
        heard_2Q, cached = torch.zeros_like(fresh_2Q), _cached(queries_QD, scores_Q, maxima=False)
        for start, scores_NQB, excluded in score_blocks(queries_QD, excluded_QX, first, rows_RD, cached):
            query_P = excluded.query_P
            score_P, own_P = excluded.of(scores_NQB), start + excluded.column_P == target_Q[query_P]
            # Negated, so that a NaN is above.
            above_P = ~(score_P <= scores_Q[query_P]) & ~own_P
            ties_P = ~(score_P < scores_Q[query_P]) & ~own_P & ~above_P
            heard_2Q.index_add_(1, query_P, torch.stack([above_P, ties_P]).long())
            if cached:
                fresh_2Q += cached.counts(scores_NQB, excluded)
            elif is_fused(scores_NQB.device):
                fresh_2Q += fused_summary(scores_NQB, scores_Q, excluded)[0]
            else:
                fresh_2Q += above_and_ties(scores_NQB, scores_Q, excluded)
        return fresh_2Q, heard_2Q

    parts = by_threads(of_part, len(queries_QD), _product_rows(queries_QD), first, rows_RD)
    fresh_2Q, heard_2Q = (torch.stack(counts).sum(dim=0) for counts in zip(*parts, strict=True))
    return Counts(*fresh_2Q), Counts(*heard_2Q)


def full_topk(
    queries_QD: Tensor, k: int, excluded_QX: Tensor, first: int, rows_RD: Tensor, allowed_R: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """This rank's best rows, int64 [Q, K], and their scores [Q, K], in `StreamingTopK`'s order.

    `allowed_R`: bool, the rows that may be among them; None for all.
    """
    row_of_first = first

    def of_part(first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor]:
        best, cached = StreamingTopK(len(queries_QD), k, queries_QD.device), _cached(queries_QD)
        mask_R = None if allowed_R is None else allowed_R[first - row_of_first :]
        for start, scores_NQB, excluded in score_blocks(queries_QD, excluded_QX, first, rows_RD, cached, mask_R):
            maxima_QG = cached.maxima(scores_NQB, excluded) if cached else None
            if not cached:
                excluded(scores_NQB, float("-inf"))
            if is_fused(scores_NQB.device):
                maxima_QG = summarize(scores_NQB[0], scores_NQB[0, :, 0], excluded.num_rows)[1]
            best.add(scores_NQB, start, maxima_QG)
        return best.result()

    parts = by_threads(of_part, len(queries_QD), _product_rows(queries_QD), first, rows_RD)
    return _merged(k, *zip(*parts, strict=True))


def full_counts_and_topk(
    queries_QD: Tensor, k: int, scores_Q: Tensor, excluded_QX: Tensor, first: int, rows_RD: Tensor
) -> tuple[Counts, tuple[Tensor, Tensor]]:
    """In one pass, counts among this rank's rows that are not excluded, and what `full_topk` returns of them."""

    def of_part(first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, cached = StreamingTopK(len(queries_QD), k, queries_QD.device), _cached(queries_QD, scores_Q)
        counts_2Q = torch.zeros(2, len(queries_QD), dtype=torch.int64, device=queries_QD.device)
        for start, scores_NQB, excluded in score_blocks(queries_QD, excluded_QX, first, rows_RD, cached):
            if cached:
                counts_2Q += cached.counts(scores_NQB, excluded)
                best.add(scores_NQB, start, cached.maxima(scores_NQB, excluded))
            elif is_fused(scores_NQB.device):
                more_2Q, maxima_QG = fused_summary(scores_NQB, scores_Q, excluded)
                counts_2Q += more_2Q
                best.add(scores_NQB, start, maxima_QG)
            else:
                best.add(excluded(scores_NQB, float("-inf")), start)
                counts_2Q += above_and_ties(scores_NQB, scores_Q, excluded)
        return counts_2Q, *best.result()

    parts = by_threads(of_part, len(queries_QD), _product_rows(queries_QD), first, rows_RD)
    counts, rows, scores = zip(*parts, strict=True)
    return Counts(*torch.stack(counts).sum(dim=0)), _merged(k, rows, scores)


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
    queries_QD: Tensor,
    excluded_QX: Tensor,
    first: int,
    rows_RD: Tensor,
    cached: CachedSummary | None = None,
    allowed_R: Tensor | None = None,
) -> Iterator[tuple[int, Tensor, Excluded]]:
    """The first row, the scores [N, Q, B] and the excluded rows of each block; the next block overwrites the scores.

    `cached` reads each product when it is made; scores of rows that are not in bool `allowed_R` are minus infinity.
    """
    height, block_NQB = _product_rows(queries_QD), _block(queries_QD)
    if cached:
        cached.begin(block_NQB)
    places = [(number, column) for number in range(len(block_NQB)) for column in range(0, block_NQB.shape[2], height)]
    products = [block_NQB[number, :, column : column + height] for number, column in places]
    step, num_rows = height * len(places), len(rows_RD)
    excluded_QX = distinct(excluded_QX)
    query_P, place_P = ((excluded_QX >= first) & (excluded_QX < first + num_rows)).nonzero(as_tuple=True)
    row_P, order_P = (excluded_QX[query_P, place_P] - first).sort()
    query_P = query_P[order_P]
    starts = torch.arange(0, num_rows + step, step, device=row_P.device)
    edges = torch.searchsorted(row_P, starts).tolist()
    for block, start in enumerate(range(0, num_rows, step)):
        end = min(start + step, num_rows)
        for place, piece in enumerate(range(start, end, height)):
            rows = slice(piece, min(piece + height, end))
            _product(queries_QD, rows_RD[rows], products[place])
            if allowed_R is not None:
                products[place][:, : rows.stop - piece].masked_fill_(~allowed_R[rows], float("-inf"))
            if cached:
                cached.read(place, rows.stop - piece)
        pairs = slice(edges[block], edges[block + 1])
        excluded = Excluded(end - start, query_P[pairs], row_P[pairs] - start)
        number, column = places[(end - start - 1) // height]
        yield first + start, block_NQB[: number + 1, :, : column + height], excluded


def distinct(rows_QX: Tensor) -> Tensor:
    """The rows of each query once, -1 in the place of the others."""
    sorted_QX = rows_QX.sort(dim=1).values
    repeats_QX = torch.nn.functional.pad(sorted_QX[:, 1:] == sorted_QX[:, :-1], (1, 0), value=False)
    return sorted_QX.masked_fill(repeats_QX, -1)


def above_and_ties(scores_NQB: Tensor, scores_Q: Tensor, excluded: Excluded) -> Tensor:
    """int64 [2, Q]: rows of a block above and equal to `scores_Q`."""
    at_most_Q, below_Q = (
        excluded(compare(scores_NQB, scores_Q[:, None]), True).sum(dim=(0, 2), dtype=torch.int32).long()
        for compare in (torch.le, torch.lt)
    )
    return torch.stack([len(scores_NQB) * scores_NQB.shape[2] - at_most_Q, at_most_Q - below_Q])


def fused_summary(scores_NQB: Tensor, scores_Q: Tensor, excluded: Excluded) -> tuple[Tensor, Tensor]:
    """`above_and_ties` and the groups' maxima [Q, G] in one pass; N is 1. Sets what is excluded to minus infinity."""
    counts_2Q, maxima_QG = summarize(excluded(scores_NQB, float("-inf"))[0], scores_Q, excluded.num_rows)
    # What is excluded has been counted as a score of minus infinity; it is to count as one below.
    missed_2Q = torch.stack([~(scores_Q >= float("-inf")), ~(scores_Q > float("-inf"))]).int()
    at_most_Q, below_Q = counts_2Q.index_add_(1, excluded.query_P, missed_2Q[:, excluded.query_P]).long()
    return torch.stack([excluded.num_rows - at_most_Q, at_most_Q - below_Q]), maxima_QG


def _merged(k: int, rows: Sequence[Tensor], scores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The best rows and scores [Q, K] of the parts', which are in the order of rows."""
    if len(rows) == 1:
        return rows[0], scores[0]
    return best_of(torch.cat(list(rows), dim=1), torch.cat(list(scores), dim=1), k)


def _cached(queries_QD: Tensor, goals_Q: Tensor | None = None, maxima: bool = True) -> CachedSummary | None:
    on_cpu = queries_QD.device.type == "cpu" and not is_fused(queries_QD.device)
    return CachedSummary(goals_Q, maxima) if on_cpu else None


def _product_rows(queries_QD: Tensor) -> int:
    """B of a product: a multiple of `StreamingTopK`'s groups, from Q and the kind of device alone, so that all ranks
    round alike."""
    scores, rows = (_GPU_PRODUCT_SCORES, _GPU_PRODUCT_ROWS) if queries_QD.is_cuda else (_BLOCK_SCORES, _BLOCK_ROWS)
    return max(min(scores // max(len(queries_QD), 1), rows) // GROUP, 1) * GROUP


def _block(queries_QD: Tensor) -> Tensor:
    """[N, Q, B] for the products of a block, from Q and the device alone."""
    height = _product_rows(queries_QD)
    if not queries_QD.is_cuda:
        return queries_QD.new_empty(_BLOCK_PRODUCTS, len(queries_QD), height)
    memory = torch.cuda.get_device_properties(queries_QD.device).total_memory
    scores = min(_GPU_BLOCK_SCORES, memory // _GPU_MEMORY_PARTS // queries_QD.element_size())
    products = max(min(scores // max(len(queries_QD) * height, 1), _GPU_BLOCK_ROWS // height), 1)
    return queries_QD.new_empty(1, len(queries_QD), products * height)


def _product(queries_QD: Tensor, rows_BD: Tensor, scores_QB: Tensor) -> Tensor:
    """`scores_QB`, with the scores of up to B rows, padded by zeros."""
    rows_BD, (num_rows, height) = rows_BD.to(queries_QD.dtype), (rows_BD.shape[0], scores_QB.shape[1])
    if num_rows < height:
        rows_BD = torch.nn.functional.pad(rows_BD, (0, 0, 0, height - num_rows))
    if queries_QD.device.type == "cpu" and _is_by_onednn():
        return scores_QB.copy_(torch.ops.mkldnn._linear_pointwise(queries_QD, rows_BD, None, "none", [], ""))
    return torch.mm(queries_QD, rows_BD.T, out=scores_QB)


@cache
def _is_by_onednn() -> bool:
    """Whether oneDNN's float32 products are faster than `torch.mm`, MKL's: twice as fast on AMD CPUs, .8 on Intel's."""
    try:
        mkl = torch.backends.mkl.is_available() and "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        mkl = False
    return torch.backends.mkldnn.is_available() and not mkl
