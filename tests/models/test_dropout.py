"""Cheap masks are masks all the same: the right share, no pattern, the right scale, the same from the same seed."""

import pytest
import torch

from skipwise.models.dropout import Dropout


def renewed(share: float, most: int) -> Dropout:
    dropout = Dropout(share)
    dropout.renew(most, torch.device("cpu"))
    return dropout


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_share_and_scale(share: float):
    torch.manual_seed(0)
    values = torch.ones(200_000)
    dropped = renewed(share, len(values))(values)
    zero = dropped == 0
    assert zero.float().mean() == pytest.approx(share, abs=4 * (share * (1 - share) / len(values)) ** 0.5)
    assert dropped[~zero].unique().item() == pytest.approx(1 / (1 - share), rel=1e-4)
    # The four elements of one random word are as likely and as unrelated as any others.
    word = zero.view(-1, 4).float()
    assert (word.mean(dim=0) - share).abs().max() < 0.01
    assert (torch.corrcoef(word.T) - torch.eye(4)).abs().max() < 0.02


def test_gradient_flows_where_values_did():
    torch.manual_seed(0)
    values = torch.randn(3, 5, 7, requires_grad=True)
    dropped = renewed(0.4, 105)(values)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, (dropped / values).detach(), rtol=1e-5, atol=1e-6)


def test_nothing_happens_outside_training_or_at_zero():
    values = torch.randn(11)
    assert Dropout(0.5).eval()(values) is values and Dropout(0.0)(values) is values


def test_masks_follow_from_the_seed():
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(renewed(0.5, 1001)(torch.ones(1001)))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_bfloat16_stays_so():
    assert renewed(0.5, 8)(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_calls_of_a_step_and_steps_differ():
    torch.manual_seed(0)
    dropout = renewed(0.5, 4000)
    masks = [dropout(torch.ones(4000)) for _ in range(3)]
    dropout.renew(4000, torch.device("cpu"))
    masks = torch.stack([*masks, dropout(torch.ones(4000))])
    assert (torch.corrcoef(masks) - torch.eye(4)).abs().max() < 0.06


def test_as_many_values_as_were_announced_and_no_more():
    dropout = renewed(0.5, 100)
    assert len(dropout(torch.ones(100))) == 100
    with pytest.raises(RuntimeError):
        dropout(torch.ones(200_000))
