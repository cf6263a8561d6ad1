"""Attention within sessions, over positions that are packed without padding.

Only the batched products need padded sessions. A head is typically 16 values wide: rows of that width are gathered
into the padded layout, the only copy that is made, and gathered back. On a CPU, sessions of similar length are taken
together, as many as have scores that fit its cache, and of longer sessions some queries at a time: what follows the
scores then reads them from the cache.
Shape legend: N positions read, B sessions, T positions of the longest, H heads, W width of a head, D = H * W;
G sessions of one group, S positions of the longest of them, Q queries and K keys of one part of it.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from skipwise.common.product_precision import exact_products
from skipwise.models.head_rows import HeadRows
from skipwise.models.time_bias import TimedMask, time_bias, time_bias_gradient

HIDDEN = -1e4
"""A score whose SiLU is zero, in any precision; of minus infinity it would be NaN."""

Mask = Callable[[Sequence[int], Tensor], Tensor | None]
"""`Dropout.mask`."""


def attend(
    projected_NX: Tensor,
    rows: HeadRows,
    mask: Tensor | TimedMask,
    causal: bool,
    dropped: Mask | None,
    heads: int,
    silu: float | None = None,
) -> Tensor:
    """[N, D]: softmax(q k / sqrt(W) + mask) v of the queries, keys and values in `projected_NX` [N, 3 * D].

    `mask`: [H or 1, T, T], -inf where `causal` hides a key; padding is hidden besides. `dropped`: gives dropout masks
    of the softmax, or None. `silu`: in place of the softmax, that many times the SiLU of each score.
    """
    timed = (mask.bias_HK, mask.buckets_BTT) if isinstance(mask, TimedMask) else (None, None)
    mask_HTT = mask.added_HTT if isinstance(mask, TimedMask) else mask
    if not len(projected_NX):  # a rank whose sessions only fill up the batch; DDP waits for the biases' gradients too
        biases = mask_HTT.sum() if timed[0] is None else mask_HTT.sum() + timed[0].sum()
        return projected_NX[:, : projected_NX.shape[1] // 3] + biases
    mask_HTT = _reaching(mask_HTT, rows.groups[0].length)  # the longest
    with torch.autocast(projected_NX.device.type, enabled=False):
        return _Attend.apply(projected_NX, rows, mask_HTT, causal, dropped, heads, silu, *timed)


def _reaching(mask_HTT: Tensor, length: int) -> Tensor:
    """The mask for that many positions: those after its own are hidden from these, and see everything."""
    missing = length - mask_HTT.shape[1]
    if missing <= 0:
        return mask_HTT
    pad = torch.nn.functional.pad
    return pad(pad(mask_HTT, (0, missing), value=float("-inf")), (0, 0, 0, missing))


def _part(buckets_BTT: Tensor | None, order_G: Tensor, queries: slice, keys: slice) -> Tensor:
    """[G, Q, K]: of those sessions; those of positions after the longest session's end are any."""
    assert buckets_BTT is not None
    part_GQK = buckets_BTT[order_G, queries, keys]
    missing = [one.stop - one.start - size for one, size in zip((keys, queries), part_GQK.shape[:0:-1], strict=True)]
    return torch.nn.functional.pad(part_GQK, (0, missing[0], 0, missing[1])) if any(missing) else part_GQK


def _exact_on_cpu(device: torch.device) -> AbstractContextManager[None]:
    """Products in float32 on a CPU: ones with heads this narrow take longer where their numbers are rounded first."""
    return exact_products() if device.type == "cpu" else nullcontext()


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected_NX: Tensor,
        rows: HeadRows,
        mask_HTT: Tensor,
        causal: bool,
        dropped: Mask | None,
        heads: int,
        silu: float | None,
        bias_HK: Tensor | None,
        buckets_BTT: Tensor | None,
    ) -> Tensor:
        width = projected_NX.shape[1] // (3 * heads)
        scale = 1 / math.sqrt(width)
        packed_RW = rows.pad(projected_NX, width)
        if packed_RW.device.type == "cpu":
            packed_RW = packed_RW.float()  # bfloat16 speeds up no products this small, and makes the softmax less exact
        output_RW = packed_RW.new_empty(len(packed_RW) // 3, width)
        saved = []
        with _exact_on_cpu(packed_RW.device):
            for group, order_G in rows.ordered_groups():
                query, key, value = group.of(packed_RW, heads)
                query *= scale  # so that the gradient of the keys needs no factor
                output = group.outputs(output_RW, heads)
                for queries, keys in group.parts(causal):
                    mask = mask_HTT[None, :, queries, keys]
                    if not causal:
                        hidden_GS = torch.arange(group.length, device=mask.device) >= group.lengths_G[:, None]
                        mask = mask.masked_fill(hidden_GS[:, None, None], torch.finfo(mask.dtype).min / 2)
                    if silu is not None:
                        mask = mask.clamp(min=HIDDEN)
                    scores = torch.bmm(query[:, queries], key[:, keys].transpose(1, 2))
                    shape = group.sessions, heads, *scores.shape[1:]
                    scores.view(shape).add_(mask.to(scores.dtype))
                    if bias_HK is not None:
                        bias_GHQK = time_bias(bias_HK, _part(buckets_BTT, order_G, queries, keys))
                        scores.view(shape).add_(bias_GHQK.to(scores.dtype))
                    weights = scores.softmax(dim=-1) if silu is None else torch.nn.functional.silu(scores) * silu
                    kept = None if dropped is None else dropped(shape, weights)
                    kept = None if kept is None else kept.view_as(weights)
                    torch.bmm(weights if kept is None else weights * kept, value[:, keys], out=output[:, queries])
                    saved += [weights if silu is None else scores, kept]
        ctx.save_for_backward(packed_RW, *saved)
        ctx.rows, ctx.causal, ctx.heads, ctx.scale, ctx.mask_shape = rows, causal, heads, scale, mask_HTT.shape
        ctx.silu, ctx.buckets_BTT, ctx.bias_shape = silu, buckets_BTT, None if bias_HK is None else bias_HK.shape
        return rows.pack_outputs(output_RW).to(projected_NX.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output_ND: Tensor) -> tuple[Tensor | None, ...]:
        packed_RW, *saved = ctx.saved_tensors
        rows, width, heads, left = ctx.rows, packed_RW.shape[1], ctx.heads, iter(saved)
        grad_output_RW = rows.pad_outputs(grad_output_ND.to(packed_RW.dtype), width)
        grad_RW = torch.empty_like(packed_RW)
        grad_mask_HTT = packed_RW.new_zeros(ctx.mask_shape) if ctx.needs_input_grad[2] else None
        grad_bias_HK = packed_RW.new_zeros(ctx.bias_shape, dtype=torch.float32) if ctx.bias_shape else None
        with _exact_on_cpu(packed_RW.device):
            for group, order_G in rows.ordered_groups():
                query, key, value = group.of(packed_RW, heads)
                grad_query, grad_key, grad_value = group.of(grad_RW, heads)
                grad_output = group.outputs(grad_output_RW, heads)
                for queries, keys in group.parts(ctx.causal):
                    weights, kept, grad_seen = next(left), next(left), grad_output[:, queries]
                    if ctx.silu is not None:
                        scores, weights = weights, torch.nn.functional.silu(weights) * ctx.silu
                    grad_weights = torch.bmm(grad_seen, value[:, keys].transpose(1, 2))
                    if kept is not None:
                        grad_weights *= kept
                    if ctx.silu is None:
                        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                    else:
                        grad_scores = torch.ops.aten.silu_backward(grad_weights * ctx.silu, scores)
                    if grad_mask_HTT is not None:
                        grad_HQK = grad_scores.view(group.sessions, heads, *weights.shape[1:]).sum(0)
                        grad_mask_HTT[:, queries, keys] += grad_HQK.sum_to_size(len(grad_mask_HTT), *grad_HQK.shape[1:])
                    if grad_bias_HK is not None:
                        of_scores = grad_scores.view(group.sessions, heads, *weights.shape[1:])
                        buckets_GQK = _part(ctx.buckets_BTT, order_G, queries, keys)
                        grad_bias_HK += time_bias_gradient(of_scores, buckets_GQK)
                    if kept is not None:
                        weights = torch.mul(weights, kept, out=grad_weights)
                    of_query = grad_scores, key[:, keys]
                    of_key = grad_scores.transpose(1, 2), query[:, queries]
                    of_value = weights.transpose(1, 2), grad_seen
                    if queries.start == 0 and queries.stop == group.length:
                        torch.bmm(*of_query, out=grad_query)
                    else:  # on a CPU the kernel of `out=` is several times slower than the copy, where rows lie apart
                        grad_query[:, queries] = torch.bmm(*of_query)
                    if queries.stop == group.length:
                        torch.bmm(*of_key, out=grad_key)
                        torch.bmm(*of_value, out=grad_value)
                    else:
                        grad_key[:, keys] += torch.bmm(*of_key)
                        grad_value[:, keys] += torch.bmm(*of_value)
                grad_query *= ctx.scale
        return (
            rows.pack(grad_RW).to(grad_output_ND.dtype),
            None,
            grad_mask_HTT,
            None,
            None,
            None,
            None,
            grad_bias_HK,
            None,
        )
