"""A narrow gated recurrent network, whose cost on a CPU is that of its many small operators, and not of its products.

PyTorch's makes some 15 operators a position and twice as many in the backward pass; this one 6 and 3, views aside, and
its products are exact: to round them to bfloat16, products this small take longer.
Shape legend: T positions, B sessions, N both, D width, H width of the state, G three times that: the gates to reset and
to update, and the new state.
"""

from typing import Any

import torch
from torch import Tensor, nn

from skipwise.common.product_precision import exact_products


class Recurrence(nn.GRU):
    """`nn.GRU` of one layer and [B, T, D] float32 values, with the same weights."""

    def __init__(self, dim: int, state: int):
        super().__init__(dim, state, batch_first=True)

    def states(self, values_BTD: Tensor) -> Tensor:
        """[B, T, H]: the state after each position."""
        if torch.is_grad_enabled() and values_BTD.device.type == "cpu":
            states_BTH: Tensor = _States.apply(values_BTD, *self._flat_weights)
        else:
            states_BTH = self(values_BTD)[0]
        return states_BTH


class _States(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values_BTD: Tensor, of_value: Tensor, of_state: Tensor, bias_G: Tensor, ahead_bias_G: Tensor
    ) -> Tensor:
        batch, length, width = *values_BTD.shape[:2], of_state.shape[1]
        with exact_products():
            values_ND = values_BTD.transpose(0, 1).flatten(0, 1)
            gates_TBG = torch.addmm(bias_G, values_ND, of_value.T).view(length, batch, 3 * width)
            ahead_TBG = torch.empty_like(gates_TBG)  # what the state before adds to the gates
            states_TBH = gates_TBG.new_zeros(length + 1, batch, width)
            states = states_TBH.unbind()
            for place, (gate_BG, ahead_BG) in enumerate(zip(gates_TBG, ahead_TBG, strict=True)):
                torch.addmm(ahead_bias_G, states[place], of_state.T, out=ahead_BG)
                gate_BG[:, : 2 * width].add_(ahead_BG[:, : 2 * width]).sigmoid_()
                reset_BH, update_BH, new_BH = gate_BG.split(width, dim=1)
                new_BH.addcmul_(reset_BH, ahead_BG[:, 2 * width :]).tanh_()
                torch.lerp(new_BH, states[place], update_BH, out=states[place + 1])
        ctx.save_for_backward(values_ND, of_value, of_state, gates_TBG, ahead_TBG[..., 2 * width :], states_TBH)
        return states_TBH[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_BTH: Tensor) -> tuple[Tensor, ...]:
        values_ND, of_value, of_state, gates_TBG, ahead_TBH, states_TBH = ctx.saved_tensors
        length, batch, width = ahead_TBH.shape
        reset_TBH, update_TBH, new_TBH = gates_TBG.split(width, dim=2)
        grad_TBH = grad_BTH.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        # What a gradient of a state is multiplied by, for that of what goes into the gates.
        to_new_TBH = (1 - update_TBH) * (1 - new_TBH * new_TBH)
        to_update_TBH = (states_TBH[:-1] - new_TBH) * update_TBH * (1 - update_TBH)
        to_reset_TBH = to_new_TBH * ahead_TBH * reset_TBH * (1 - reset_TBH)
        factors_TB3H = torch.stack([to_reset_TBH, to_update_TBH, to_new_TBH * reset_TBH], dim=2)
        ahead_TB3H = torch.empty_like(factors_TB3H)
        with exact_products():
            for place in reversed(range(length)):
                torch.mul(factors_TB3H[place], grad_TBH[place][:, None], out=ahead_TB3H[place])
                if place:
                    before_BH = grad_TBH[place - 1].addcmul_(grad_TBH[place], update_TBH[place])
                    before_BH.addmm_(ahead_TB3H[place].view(batch, 3 * width), of_state)
            ahead_NG = ahead_TB3H.view(length * batch, 3 * width)
            gates_NG = ahead_NG.clone()
            gates_NG[:, 2 * width :] = (to_new_TBH * grad_TBH).view(length * batch, width)
            return (
                (gates_NG @ of_value).view(length, batch, of_value.shape[1]).transpose(0, 1),
                gates_NG.T @ values_ND,
                ahead_NG.T @ states_TBH[:-1].view(length * batch, width),
                gates_NG.sum(dim=0),
                ahead_NG.sum(dim=0),
            )
