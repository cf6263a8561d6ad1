"""Exact ranks over a table in pieces: each rank scores its own rows only, and the counts are summed.

Shape legend: Q queries of all ranks, C candidates, R rows of this rank, D width. `first` is this rank's first row.
A candidate that scores as high as the target counts against the model, and so does a score that is not a number.
"""

import torch
from torch import Tensor

_SESSIONS = 8
_BLOCK_ROWS = 1 << 13


def uniform_scores(queries_QD: Tensor, rows_QC: Tensor, first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [Q, C] of catalogue rows `rows_QC`, zero where the row is another rank's, and a bool [Q, C] of our own.

    Element-wise, so that equal rows score equal to the last bit wherever they stand.
    """
    own_QC = (rows_QC >= first) & (rows_QC < first + len(rows_RD))
    scores_QC = queries_QD.new_zeros(rows_QC.shape)
    # A rank owns about 1 / ranks of the candidates: bring those to the front and score no others.
    own_first_QC = own_QC.to(torch.int8).argsort(dim=1, descending=True)[:, : int(own_QC.sum(dim=1).max())]
    local_QC = (rows_QC.gather(1, own_first_QC) - first).clamp(0, max(len(rows_RD) - 1, 0))
    for start in range(0, len(rows_QC), _SESSIONS):
        part = slice(start, start + _SESSIONS)
        products = torch.nn.functional.embedding(local_QC[part], rows_RD).mul_(queries_QD[part, None])
        scores_QC[part].scatter_(1, own_first_QC[part], products.sum(-1))
    return scores_QC * own_QC, own_QC


def full_target_scores(queries_QD: Tensor, target_Q: Tensor, first: int, rows_RD: Tensor) -> Tensor:
    """Scores [Q] of the targets that are this rank's, zero for others.

    By a matrix product as wide as the catalogue's blocks, since a narrow one rounds differently and would break ties.
    """
    own_Q = (target_Q >= first) & (target_Q < first + len(rows_RD))
    if not own_Q.any():
        return queries_QD.new_zeros(len(target_Q))
    local_Q = torch.where(own_Q, target_Q - first, 0)
    wide_W = torch.nn.functional.pad(local_Q, (0, max(0, min(len(rows_RD), 256) - len(local_Q))))
    return torch.where(own_Q, (queries_QD @ rows_RD[wide_W].T).diagonal(), 0.0)


def full_counts(queries_QD: Tensor, scores_Q: Tensor, excluded_QX: Tensor, first: int, rows_RD: Tensor) -> Tensor:
    """int64 [Q]: this rank's rows that score at least `scores_Q`, without the rows `excluded_QX` (-1: none)."""
    counts_Q = torch.zeros(len(queries_QD), dtype=torch.int64, device=queries_QD.device)
    for start in range(0, len(rows_RD), _BLOCK_ROWS):
        block_RD = rows_RD[start : start + _BLOCK_ROWS]
        scores_QR = queries_QD @ block_RD.T
        local_QX = excluded_QX - first - start
        query_P, column_P = ((local_QX >= 0) & (local_QX < len(block_RD))).nonzero(as_tuple=True)
        scores_QR[query_P, local_QX[query_P, column_P]] = float("-inf")
        counts_Q += (~(scores_QR < scores_Q[:, None])).sum(dim=1)
    return counts_Q
