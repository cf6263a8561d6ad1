"""Attention within sessions, over positions that are packed without padding.

Only the batched products need padded sessions. A head is typically 16 values wide: rows of that width are gathered
into the padded layout, the only copy that is made, and gathered back.
Shape legend: N positions read, B sessions, T positions of the longest, H heads, W width of a head, D = H * W.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadRows:
    """The index of each head's row of each position, in the packed and in the padded layout."""

    padded_R: Tensor
    """int64 [3 * B * H * T]: for each padded row of queries, keys, values its index among the N * 3 * H packed ones;
    the index of another position where there is padding."""
    packed_R: Tensor
    """int64 [N * 3 * H]: for each packed row its index among the padded ones."""
    output_R: Tensor
    """int64 [N * H]: for each packed row of the output its index among the B * H * T padded ones."""

    @classmethod
    def of(cls, tokens_N: Tensor, batch: int, length: int, heads: int) -> "HeadRows":
        """For positions b * T + t in `tokens_N`."""
        device = tokens_N.device
        token_BT = torch.zeros(batch * length, dtype=torch.int64, device=device)
        token_BT[tokens_N] = torch.arange(len(tokens_N), device=device)
        part_P, head_H = torch.arange(3, device=device), torch.arange(heads, device=device)
        padded_PBHT = (
            token_BT.view(1, batch, 1, length) * (3 * heads)
            + part_P.view(3, 1, 1, 1) * heads
            + head_H.view(1, 1, -1, 1)
        )
        session_N, place_N = tokens_N // length, tokens_N % length
        output_NH = (session_N[:, None] * heads + head_H) * length + place_N[:, None]
        packed_NPH = part_P.view(1, 3, 1) * (batch * heads * length) + output_NH[:, None, :]
        return cls(padded_PBHT.flatten(), packed_NPH.flatten(), output_NH.flatten())


def attend(projected_NX: Tensor, rows: HeadRows, mask_BHTT: Tensor, kept_BHTT: Tensor | None, heads: int) -> Tensor:
    """[N, D]: softmax(q k / sqrt(W) + mask) v of the queries, keys and values in `projected_NX` [N, 3 * D].

    `mask_BHTT` is broadcast to B x H x T x T; `kept_BHTT`: a dropout mask of the softmax, or None.
    """
    if not len(projected_NX):  # a rank whose sessions only fill up the batch
        return projected_NX[:, : projected_NX.shape[1] // 3]
    with torch.autocast(projected_NX.device.type, enabled=False):
        return _Attend.apply(projected_NX, rows, mask_BHTT, kept_BHTT, heads)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected_NX: Tensor,
        rows: HeadRows,
        mask_BHTT: Tensor,
        kept_BHTT: Tensor | None,
        heads: int,
    ) -> Tensor:
        (batch, _, length, _), width = mask_BHTT.shape, projected_NX.shape[1] // (3 * heads)
        scale = 1 / math.sqrt(width)
        parts = projected_NX.reshape(-1, width).index_select(0, rows.padded_R)
        if parts.device.type == "cpu":
            parts = parts.float()  # bfloat16 speeds up no products this small, and makes the softmax less exact
        query, key, value = parts.view(3, batch * heads, length, width).unbind(0)
        mask = mask_BHTT.expand(-1, heads, -1, -1).reshape(-1, length, length).to(query.dtype)
        weights = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scale).softmax(dim=-1)
        kept = None if kept_BHTT is None else kept_BHTT.view_as(weights).to(weights.dtype)
        seen = torch.bmm(weights if kept is None else weights * kept, value)
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.rows, ctx.scale, ctx.mask_shape = rows, scale, mask_BHTT.shape
        output_ND = seen.view(-1, width).index_select(0, rows.output_R).view(-1, heads * width)
        return output_ND.to(projected_NX.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output_ND: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        rows, width = ctx.rows, query.shape[2]
        grad_seen = torch.zeros_like(query).view(-1, width)
        grad_row = grad_output_ND.reshape(-1, width).to(query.dtype)
        grad_seen = grad_seen.index_copy_(0, rows.output_R, grad_row).view_as(query)
        grad_parts = query.new_empty(3, *query.shape)
        # Not with `out=`: on a CPU its kernel is several times slower than the copy.
        grad_parts[2] = torch.bmm((weights if kept is None else weights * kept).transpose(1, 2), grad_seen)
        grad_weights = torch.bmm(grad_seen, value.transpose(1, 2))
        if kept is not None:
            grad_weights *= kept
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_mask = None
        if ctx.needs_input_grad[2]:
            grad_mask = grad_scores.view(ctx.mask_shape[0], -1, *weights.shape[1:]).sum_to_size(ctx.mask_shape)
        # Not in place: the mask's gradient is a view of it where the mask is as large.
        grad_scores = grad_scores * ctx.scale
        grad_parts[0] = torch.bmm(grad_scores, key)
        grad_parts[1] = torch.bmm(grad_scores.transpose(1, 2), query)
        grad_projected = grad_parts.view(-1, width).index_select(0, rows.packed_R).view(len(grad_output_ND), -1)
        return grad_projected.to(grad_output_ND.dtype), None, grad_mask, None, None
