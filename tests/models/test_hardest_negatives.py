"""The hardest negatives of each position, against a plain loop over logits."""

import math
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

from skipwise.datapipes.config import DataConfig
from skipwise.models import pool
from skipwise.models.config import LossConfig
from skipwise.models.pool import hardest, pool_losses, softmax_head
from skipwise.training.config import RunConfig

DIM, POSITIONS, POOL = 4, 9, 12


def test_three_negatives_worked_by_hand():
    """Of the logits 0, log 2 and log 3 the two highest stay: -log(1 / (1 + 2 + 3)), and the first has no gradient."""
    logits = torch.tensor([[0.0, math.log(2), math.log(3)]])
    losses, grad_target = hardest(softmax_head, 2)(torch.zeros(1), logits)
    assert_close(losses, torch.tensor([math.log(6)]))
    assert_close(logits, torch.tensor([[0.0, 2 / 6, 3 / 6]]))
    assert_close(grad_target, torch.tensor([1 / 6 - 1]))


def test_equal_logits_are_all_among_them():
    logits = torch.zeros(1, 4)
    losses, _ = hardest(softmax_head, 2)(torch.zeros(1), logits)
    assert_close(losses, torch.tensor([math.log(5)]))


@pytest.mark.parametrize("own_windows", [False, True])
@pytest.mark.parametrize("chunk", [2, 256])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_loss_and_gradients_equal_a_plain_loop(own_windows: bool, chunk: int, count: int):
    """Windows with fewer negatives than that, and one with none, included."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(size, DIM, generator=generator, requires_grad=True) for size in (POSITIONS, POSITIONS, POOL)]
    queries, targets, tracks = given
    windows = torch.tensor([[0, POOL]] * POSITIONS)
    if own_windows:
        windows = torch.tensor([[min(first, POOL - 3), min(first, POOL - 3) + 4] for first in range(POSITIONS)])
        windows[2] = torch.tensor([2, 2])
        windows[:, 1].clamp_(max=POOL)
    collides = torch.tensor([[1, 2], [5, 7]])
    with patch.object(pool, "_SHARED_ROWS", chunk), patch.object(pool, "_OWN_ROWS", chunk):
        loss = pool_losses(queries, targets, tracks, windows, collides, hardest(softmax_head, count))
    losses = []
    for position, (first, last) in enumerate(windows.tolist()):
        left = [place for place in range(first, last) if [position, place] not in collides.tolist()]
        logits = (tracks[left] @ queries[position]).sort(descending=True).values[:count]
        target = targets[position] @ queries[position]
        losses.append(torch.cat([target[None], logits]).logsumexp(0) - target)
    expected = torch.stack(losses).sum()
    assert_close(loss, expected)
    for one, other in zip(torch.autograd.grad(loss, given), torch.autograd.grad(expected, given), strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_as_many_as_there_are_is_refused():
    with pytest.raises(ValueError, match="--loss.hardest 20 must be below --data.negatives 20"):
        RunConfig(data=DataConfig(negatives=20), loss=LossConfig(hardest=20))
