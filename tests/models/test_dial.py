"""One inner product ranks by the next track's score and P(kept) together."""

import torch
from torch.testing import assert_close

from skipwise.models.dial import dialled, keep_query


def test_worked_by_hand():
    """q = (1, 2), r = (3, -1), b = 0.5 and a row e = (10, 1), f = (2, 4): q . e = 12, r . f = 2."""
    outputs_BY = torch.tensor([[1.0, 2.0, 3.0, -1.0, 0.5]])
    row_D = torch.tensor([10.0, 1.0, 2.0, 4.0])
    assert (dialled(outputs_BY, 2, 0.0) @ row_D).item() == 12
    assert (dialled(outputs_BY, 2, 1.5) @ row_D).item() == 15
    query_BD, bias_B1 = keep_query(outputs_BY, 2)
    assert (query_BD @ row_D + bias_B1[:, 0]).item() == 2.5
    assert outputs_BY.tolist() == [[1.0, 2.0, 3.0, -1.0, 0.5]], "not written to"


def test_without_a_keep_head_the_outputs_are_the_queries():
    outputs_BD = torch.randn(3, 4)
    assert dialled(outputs_BD, 0, 2.0) is outputs_BD


def test_the_bias_moves_no_rank():
    torch.manual_seed(0)
    outputs_BY, rows_RD = torch.randn(5, 8 + 4 + 1), torch.randn(50, 12)
    scores_BR = dialled(outputs_BY, 4, 2.0) @ rows_RD.T
    query_BD, bias_B1 = keep_query(outputs_BY, 4)
    logits_BR = query_BD @ rows_RD.T + bias_B1
    next_BR = outputs_BY[:, :8] @ rows_RD[:, :8].T
    assert_close(scores_BR, next_BR + 2 * (logits_BR - bias_B1))
    assert torch.equal(scores_BR.argsort(dim=1), (next_BR + 2 * logits_BR).argsort(dim=1))
