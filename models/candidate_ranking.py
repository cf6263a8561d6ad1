"""Scores of chosen candidates over a table in pieces: each rank scores its own rows only, and the scores are summed.

Shape legend: Q queries of all ranks, C candidates, R rows of this rank, D width. `first` is this rank's first row.
A candidate that scores as high as the target counts against the model, and so does a score that is not a number.
"""

import torch
from torch import Tensor

_SESSIONS = 8


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
