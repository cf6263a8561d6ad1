"""Positions packed without padding: the outputs and gradients of padded sessions, which autograd works out."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.packed import Packed, Padded

INPUTS = torch.tensor([3, 6, 0, 1, 6])
LENGTH, DIM = 6, 12


@pytest.mark.parametrize(
    ("kind", "direction", "positions", "times"),
    [
        *itertools.product(
            ("transformer", "hstu"), ("unidirectional", "bidirectional"), ("learned", "relative"), (False,)
        ),
        *itertools.product(("transformer", "hstu"), ("unidirectional", "bidirectional"), ("relative",), (True,)),
        ("ligr", "unidirectional", "relative", False),
        ("ligr", "bidirectional", "none", True),
        ("gru", "unidirectional", "none", False),
        ("nextitnet", "unidirectional", "learned", False),
    ],
)
def test_packed_equals_padded(kind: Any, direction: Any, positions: Any, times: bool):
    """Every parameter's gradient too, the biases of distances and times included, and that of the rows read."""
    config = EncoderConfig(
        direction, kind, max_length=8, positions=positions, times=times, heads=3, hidden=20, dropout=0.0
    )
    pauses_BT = torch.randint(-1, 200, (len(INPUTS), LENGTH)) if times else None
    encoder = Encoder(config, DIM)
    real_BT = torch.arange(LENGTH) < INPUTS[:, None]
    tokens_N = real_BT.flatten().nonzero().squeeze(1)
    masked_BT = (
        real_BT & (torch.rand(real_BT.shape) < 0.3) if direction == "bidirectional" else torch.zeros_like(real_BT)
    )
    items_PD = torch.randn(real_BT.numel(), DIM, requires_grad=True)
    weights_ND = torch.randn(len(tokens_N), DIM)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)

    def outputs_and_gradients(packed: bool) -> list[Tensor]:
        encoder.zero_grad()
        items_PD.grad = None
        places = Packed(len(INPUTS), LENGTH, tokens_N) if packed else Padded(len(INPUTS), LENGTH)
        outputs = encoder(items_PD[tokens_N] if packed else items_PD, places, INPUTS, masked_BT, pauses_BT=pauses_BT)
        outputs = outputs if packed else outputs[tokens_N]
        (outputs * weights_ND).sum().backward()
        gradients = [parameter.grad for parameter in encoder.parameters()]
        assert all(gradient is not None and gradient.any() for gradient in gradients)
        return [outputs.detach(), items_PD.grad, *gradients]

    for packed, padded in zip(outputs_and_gradients(True), outputs_and_gradients(False), strict=True):
        assert_close(packed, padded, rtol=1e-4, atol=1e-4)
