"""Ranking over a row-wise table: each rank scores its own rows, and the callers sum counts and scores over ranks.

Shape legend: Q queries of all ranks, R rows of this rank, B rows of a block, D width, X rows to exclude from a query,
C candidates of a query, K best rows, P pairs of a query and a row. `first` is this rank's first row.

In full ranking a row's score is one float32 matrix product whose shape depends on Q alone, [Q, D] by [D, B]; the last
rows are padded to it, and targets are scored by it too. So equal rows have bitwise equal scores on any rank; a product
of another width may round differently. Callers set `torch.set_float32_matmul_precision("highest")`.
A row above the target has a higher score or one that is NaN; a tie is an equal score.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skipwise.models.topk import GROUP, StreamingTopK

_BLOCK_SCORES = 1 << 21
"""Scores of a block, 8 MiB: they stay in the cache between the passes over them."""
_BLOCK_ROWS = 1 << 13
_CANDIDATE_QUERIES = 8
"""Queries whose candidates are scored at a time."""


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
    place_P = own_Q.nonzero().squeeze(1)
    for place_B in place_P.split(_block_rows(len(queries_QD))):
        scores_QB = _product(queries_QD, rows_RD[target_Q[place_B] - first])
        scores_Q[place_B] = scores_QB[place_B, torch.arange(len(place_B), device=place_B.device)]
    return scores_Q


def full_counts(
    queries_QD: Tensor, scores_Q: Tensor, target_Q: Tensor, heard_QX: Tensor, first: int, rows_RD: Tensor
) -> tuple[Counts, Counts]:
    """Counts among this rank's rows, without the target's own: of rows that are not in `heard_QX`, and of those.

    `scores_Q`: the targets' scores; `heard_QX`: distinct rows of each query, -1 is padding.
    """
    fresh_2Q = torch.zeros(2, len(queries_QD), dtype=torch.int64, device=queries_QD.device)
    heard_2Q = torch.zeros_like(fresh_2Q)
    heard_QX = heard_QX.masked_fill(heard_QX == target_Q[:, None], -1)
    excluded_QX = torch.cat([target_Q[:, None], heard_QX], dim=1)
    for start, scores_QB, excluded in score_blocks(queries_QD, excluded_QX, first, rows_RD):
        query_P, column_P = excluded.query_P, excluded.column_P
        score_P, own_P = scores_QB[query_P, column_P], start + column_P == target_Q[query_P]
        # Negated, so that a NaN is above.
        above_P = ~(score_P <= scores_Q[query_P]) & ~own_P
        ties_P = ~(score_P < scores_Q[query_P]) & ~own_P & ~above_P
        heard_2Q.index_add_(1, query_P, torch.stack([above_P, ties_P]).long())
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
        best.add(excluded(scores_QB, float("-inf")), start)
    return best.result()


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
    own_first_QC = own_QC.to(torch.int8).argsort(dim=1, descending=True)[:, : int(own_QC.sum(dim=1).max())]
    local_QC = (rows_QC.gather(1, own_first_QC) - first).clamp(0, max(len(rows_RD) - 1, 0))
    for start in range(0, len(rows_QC), _CANDIDATE_QUERIES):
        part = slice(start, start + _CANDIDATE_QUERIES)
        chosen = torch.nn.functional.embedding(local_QC[part], rows_RD).to(queries_QD.dtype)
        products = chosen.mul_(queries_QD[part, None])
        scores_QC[part].scatter_(1, own_first_QC[part], products.sum(-1))
    return scores_QC * own_QC, own_QC


def score_blocks(
    queries_QD: Tensor, excluded_QX: Tensor, first: int, rows_RD: Tensor
) -> Iterator[tuple[int, Tensor, Excluded]]:
    """The first row, the scores [Q, B] and the excluded rows of each block."""
    height = _block_rows(len(queries_QD))
    query_P, place_P = ((excluded_QX >= first) & (excluded_QX < first + len(rows_RD))).nonzero(as_tuple=True)
    row_P, order_P = (excluded_QX[query_P, place_P] - first).sort()
    query_P = query_P[order_P]
    starts = torch.arange(0, len(rows_RD) + height, height, device=row_P.device)
    edges = torch.searchsorted(row_P, starts).tolist()
    for number, start in enumerate(range(0, len(rows_RD), height)):
        block_BD = rows_RD[start : start + height]
        pairs = slice(edges[number], edges[number + 1])
        excluded = Excluded(len(block_BD), query_P[pairs], row_P[pairs] - start)
        yield first + start, _product(queries_QD, block_BD), excluded


def above_and_ties(scores_QB: Tensor, scores_Q: Tensor, excluded: Excluded) -> Tensor:
    """int64 [2, Q]: rows of a block above and equal to `scores_Q`. Overwrites the block's scores."""
    # Comparing into floats and summing those is vectorized; comparing into bools is not.
    at_most_QB = excluded(scores_QB.clone().le_(scores_Q[:, None]), 1.0)
    below_QB = excluded(scores_QB.lt_(scores_Q[:, None]), 1.0)
    at_most_Q, below_Q = at_most_QB.sum(dim=1).long(), below_QB.sum(dim=1).long()
    return torch.stack([scores_QB.shape[1] - at_most_Q, at_most_Q - below_Q])


def _block_rows(num_queries: int) -> int:
    """B: a multiple of `StreamingTopK`'s groups, from Q alone, so that all ranks round alike."""
    return max(min(_BLOCK_SCORES // max(num_queries, 1), _BLOCK_ROWS) // GROUP, 1) * GROUP


def _product(queries_QD: Tensor, rows_BD: Tensor) -> Tensor:
    """Scores [Q, B] of up to B rows, padded by zeros."""
    rows_BD = rows_BD.to(queries_QD.dtype)
    padding = _block_rows(len(queries_QD)) - len(rows_BD)
    if padding:
        rows_BD = torch.nn.functional.pad(rows_BD, (0, 0, 0, padding))
    if queries_QD.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # oneDNN's product in full float32; `@` would call MKL, which has half that throughput on AMD CPUs.
        return torch.ops.mkldnn._linear_pointwise(queries_QD, rows_BD, None, "none", [], "")
    return queries_QD @ rows_BD.T
