"""Ranking as one would write it in plain PyTorch on one process: the baseline of `evaluate`.

Shape legend: Q queries, C candidates, X rows to leave out, R rows of the whole table, D width, K best rows.
"""

import torch
from torch import Tensor

_FULL_QUERIES = 64
"""256 MB of scores at a million rows. More at once, or fewer, was no faster."""
_UNIFORM_QUERIES = 64
"""33 MB of rows at 1000 candidates of 128 numbers."""


def plain_full(
    queries_QD: Tensor, target_Q: Tensor, excluded_QX: Tensor, k: int, table_RD: Tensor
) -> tuple[Tensor, Tensor]:
    """(ranks int64 [Q], the K best rows [Q, K]): all scores of some queries, `topk`, and a comparison."""
    ranks, best = [], []
    for start in range(0, len(queries_QD), _FULL_QUERIES):
        part = slice(start, start + _FULL_QUERIES)
        scores_QR = queries_QD[part] @ table_RD.T
        target_scores_Q = scores_QR.gather(1, target_Q[part, None])
        scores_QR.scatter_(1, excluded_QX[part], float("-inf"))
        # int32: a sum into torch's default, int64, takes half as long again.
        ranks.append(1 + (scores_QR >= target_scores_Q).sum(dim=1, dtype=torch.int32).long())
        best.append(scores_QR.topk(k, dim=1).indices)
    return torch.cat(ranks), torch.cat(best)


def plain_uniform(queries_QD: Tensor, target_Q: Tensor, candidates_QC: Tensor, table_RD: Tensor) -> Tensor:
    """Ranks int64 [Q]: the rows of each query gathered, then multiplied by it."""
    ranks = []
    for start in range(0, len(queries_QD), _UNIFORM_QUERIES):
        part = slice(start, start + _UNIFORM_QUERIES)
        rows_QCD = table_RD[torch.cat([target_Q[part, None], candidates_QC[part]], dim=1)]
        scores_QC = torch.einsum("qcd,qd->qc", rows_QCD, queries_QD[part])
        ranks.append(1 + (scores_QC[:, 1:] >= scores_QC[:, :1]).sum(dim=1))
    return torch.cat(ranks)
