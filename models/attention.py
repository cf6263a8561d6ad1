"""Attention within sessions, over positions that are packed without padding.

Sessions are padded for the products alone: heads are 16 values wide as a rule, so rows of that width are gathered to
where batched products want them, which is the only copy that is made, and gathered back.
Shape legend: N positions read, B sessions, T positions of the longest, H heads, W width of a head, D = H * W.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


@dataclass(frozen=True)
class HeadRows:
    """Where each head's row of each position lies, packed and padded."""

    padded_R: Tensor
    """int64 [3 * B * H * T]: for each padded row of queries, keys, values its place among the N * 3 * H packed ones;
    that of some other position where there is padding."""
    packed_R: Tensor
    """int64 [N * 3 * H]: for each packed row its place among the padded ones."""
    output_R: Tensor
    """int64 [N * H]: for each packed row of the output its place among the B * H * T padded ones."""

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
        context: FunctionCtx,
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
            parts = parts.float()  # products this small gain nothing from bfloat16 there, and the softmax loses by it
        query, key, value = parts.view(3, batch * heads, length, width).unbind(0)
        mask = mask_BHTT.expand(-1, heads, -1, -1).reshape(-1, length, length).to(query.dtype)
        weights = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scale).softmax(dim=-1)
        kept = None if kept_BHTT is None else kept_BHTT.view_as(weights).to(weights.dtype)
        seen = torch.bmm(weights if kept is None else weights * kept, value)
        context.save_for_backward(query, key, value, weights, kept)
        context.rows, context.scale, context.mask_shape = rows, scale, mask_BHTT.shape
        output_ND = seen.view(-1, width).index_select(0, rows.output_R).view(-1, heads * width)
        return output_ND.to(projected_NX.dtype)

    @staticmethod
    def backward(context: FunctionCtx, by_output_ND: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = context.saved_tensors
        rows, width = context.rows, query.shape[2]
        by_seen = torch.zeros_like(query).view(-1, width)
        by_row = by_output_ND.reshape(-1, width).to(query.dtype)
        by_seen = by_seen.index_copy_(0, rows.output_R, by_row).view_as(query)
        by_part = query.new_empty(3, *query.shape)
        # Not by `out=`, which on a CPU takes a way several times slower than the copy.
        by_part[2] = torch.bmm((weights if kept is None else weights * kept).transpose(1, 2), by_seen)
        by_weight = torch.bmm(by_seen, value.transpose(1, 2))
        if kept is not None:
            by_weight *= kept
        by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
        by_mask = None
        if context.needs_input_grad[2]:
            by_mask = by_score.view(context.mask_shape[0], -1, *weights.shape[1:]).sum_to_size(context.mask_shape)
        by_score *= context.scale
        by_part[0] = torch.bmm(by_score, key)
        by_part[1] = torch.bmm(by_score.transpose(1, 2), query)
        by_projected = by_part.view(-1, width).index_select(0, rows.packed_R).view(len(by_output_ND), -1)
        return by_projected.to(by_output_ND.dtype), None, by_mask, None, None
