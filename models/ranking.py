"""Ranking over a row-wise table: each rank scores its own rows, and the callers sum counts and scores over ranks.

Shape legend: Q queries of all ranks, R rows of this rank, B rows of a block, D width, X rows to exclude from a query,
C candidates of a query, K best rows, P pairs of a query and a row. `first` is this rank's first row.

In full ranking a row's score is one float32 matrix product whose shape depends on Q alone, [Q, D] by [D, B]; the last
rows are padded to it, and targets are scored by it too. So equal rows have bitwise equal scores on any rank; a product
of another width may round differently. Callers set `torch.set_float32_matmul_precision("highest")`.
A row that scores as high as the target counts against the model, and so does a NaN.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from skipwise.models.topk import GROUP, StreamingTopK

_BLOCK_SCORES = 1 << 21
"""Scores of a block, 8 MiB: they stay in the cache between the passes over them."""
_BLOCK_ROWS = 1 << 13
_CANDIDATE_QUERIES = 8
"""Queries whose candidates are scored at a time."""

Exclude = Callable[[Tensor, float], Tensor]
"""Sets values [Q, B] of a block to a number at the excluded rows and at padding, and returns them."""


def full_target_scores(queries_QD: Tensor, target_Q: Tensor, first: int, rows_RD: Tensor) -> Tensor:
    """Scores [Q] of the targets that are this rank's, zero for others."""
    own_Q = (target_Q >= first) & (target_Q < first + len(rows_RD))
    scores_Q = queries_QD.new_zeros(len(target_Q))
    place_P = own_Q.nonzero().squeeze(1)
    for place_B in place_P.split(_block_rows(len(queries_QD))):
        scores_QB = _product(queries_QD, rows_RD[target_Q[place_B] - first])
        scores_Q[place_B] = scores_QB[place_B, torch.arange(len(place_B), device=place_B.device)]
    return scores_Q


def full_counts(queries_QD: Tensor, scores_Q: Tensor, excluded_QX: Tensor, first: int, rows_RD: Tensor) -> Tensor:
    """int64 [Q]: this rank's rows that score at least `scores_Q`, without the rows `excluded_QX` (-1: padding)."""
    counts_Q = torch.zeros(len(queries_QD), dtype=torch.int64, device=queries_QD.device)
    for _, scores_QB, exclude in score_blocks(queries_QD, excluded_QX, first, rows_RD):
        counts_Q += at_least(scores_QB, scores_Q, exclude)
    return counts_Q


def full_topk(queries_QD: Tensor, k: int, excluded_QX: Tensor, first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor]:
    """This rank's best rows, int64 [Q, K], and their scores [Q, K], in `StreamingTopK`'s order."""
    best = StreamingTopK(len(queries_QD), k, queries_QD.device)
    for start, scores_QB, exclude in score_blocks(queries_QD, excluded_QX, first, rows_RD):
        best.add(exclude(scores_QB, float("-inf")), start)
    return best.result()


def uniform_scores(queries_QD: Tensor, rows_QC: Tensor, first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [Q, C] of the rows `rows_QC`, zero for rows of other ranks, and a bool [Q, C] of this rank's own.

    Element-wise, so that equal rows have bitwise equal scores on any rank.
    """
    own_QC = (rows_QC >= first) & (rows_QC < first + len(rows_RD))
    scores_QC = queries_QD.new_zeros(rows_QC.shape)
    # A rank owns about 1 / world_size of the candidates: bring those to the front and score no others.
    own_first_QC = own_QC.to(torch.int8).argsort(dim=1, descending=True)[:, : int(own_QC.sum(dim=1).max())]
    local_QC = (rows_QC.gather(1, own_first_QC) - first).clamp(0, max(len(rows_RD) - 1, 0))
    for start in range(0, len(rows_QC), _CANDIDATE_QUERIES):
        part = slice(start, start + _CANDIDATE_QUERIES)
        products = torch.nn.functional.embedding(local_QC[part], rows_RD).mul_(queries_QD[part, None])
        scores_QC[part].scatter_(1, own_first_QC[part], products.sum(-1))
    return scores_QC * own_QC, own_QC


def score_blocks(
    queries_QD: Tensor, excluded_QX: Tensor, first: int, rows_RD: Tensor
) -> Iterator[tuple[int, Tensor, Exclude]]:
    """The first row, the scores [Q, B] and what sets excluded rows and padding of each block."""
    height = _block_rows(len(queries_QD))
    query_P, place_P = ((excluded_QX >= first) & (excluded_QX < first + len(rows_RD))).nonzero(as_tuple=True)
    row_P, order_P = (excluded_QX[query_P, place_P] - first).sort()
    query_P = query_P[order_P]
    starts = torch.arange(0, len(rows_RD) + height, height, device=row_P.device)
    edges = torch.searchsorted(row_P, starts).tolist()
    for number, start in enumerate(range(0, len(rows_RD), height)):
        block_BD = rows_RD[start : start + height]
        pairs = slice(edges[number], edges[number + 1])
        exclude = partial(_exclude, len(block_BD), query_P[pairs], row_P[pairs] - start)
        yield first + start, _product(queries_QD, block_BD), exclude


def _exclude(num_rows: int, query_P: Tensor, column_P: Tensor, values_QB: Tensor, value: float) -> Tensor:
    values_QB[:, num_rows:] = value
    values_QB[query_P, column_P] = value
    return values_QB


def at_least(scores_QB: Tensor, scores_Q: Tensor, exclude: Exclude) -> Tensor:
    """int64 [Q]: rows of a block that score at least `scores_Q`. Overwrites the block's scores."""
    # Comparing into floats and summing those is vectorized; comparing into bools is not.
    below_QB = exclude(scores_QB.lt_(scores_Q[:, None]), 1.0)
    return below_QB.shape[1] - below_QB.sum(dim=1).long()


def _block_rows(num_queries: int) -> int:
    """B: a multiple of `StreamingTopK`'s groups, from Q alone, so that all ranks round alike."""
    return max(min(_BLOCK_SCORES // max(num_queries, 1), _BLOCK_ROWS) // GROUP, 1) * GROUP


def _product(queries_QD: Tensor, rows_BD: Tensor) -> Tensor:
    """Scores [Q, B] of up to B rows, padded by zeros."""
    padding = _block_rows(len(queries_QD)) - len(rows_BD)
    if padding:
        rows_BD = torch.nn.functional.pad(rows_BD, (0, 0, 0, padding))
    if queries_QD.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # oneDNN's product in full float32; `@` would call MKL, which has half that throughput on AMD CPUs.
        return torch.ops.mkldnn._linear_pointwise(queries_QD, rows_BD, None, "none", [], "")
    return queries_QD @ rows_BD.T
