"""The losses as pure functions: each takes tensors and returns one value a position.

Shape legend: B sessions, T positions, D width, V positions with a target, K negatives.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from skipwise.models.head_rows import SCORES, groups_of

_EPS = 1e-12
"""Lower bound of a row's length, so that a row of zeros has a direction: `normalize`'s eps."""


def sampled_softmax(target_V: Tensor, negatives_VK: Tensor) -> Tensor:
    """Negative log-likelihood [V] of the target's logit against itself and K negatives' logits (-inf: left out).

    With every track but the target as a negative this is the full softmax; without any left, zero.
    """
    # Not `logsumexp`, whose gradient is NaN where all its terms are -inf; the target's logit never is.
    highest_V = torch.maximum(target_V, negatives_VK.amax(dim=-1)).detach()
    negatives_V = (negatives_VK - highest_V.unsqueeze(-1)).exp().sum(dim=-1)
    return ((target_V - highest_V).exp() + negatives_V).log() + highest_V - target_V


def gbce_power(calibration: float, negatives: int, num_tracks: int) -> float:
    """The power of the target's probability: 1 - t * (1 - a), where `calibration` is t and a = K / (N - 1) is the
    share of the catalogue's other tracks that was drawn (Petrov & Macdonald, arXiv 2308.07192)."""
    return 1 - calibration * (1 - min(1, negatives / max(num_tracks - 1, 1)))


def keep_losses(outputs_VK: Tensor, rows_VF: Tensor, kept_V: Tensor) -> Tensor:
    """Binary cross-entropy [V] of the logits r . f + b of P(kept) against kept (1) or skipped (0).

    `outputs_VK`: r [V, F] and b [V, 1]; `rows_VF`: f, the tracks' columns of the keep head.
    """
    logits_V = (outputs_VK[:, :-1].float() * rows_VF).sum(dim=1) + outputs_VK[:, -1].float()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits_V, kept_V, reduction="none")


def next_kept(skipped_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """int64 [B, T]: the position of the next kept track after each position, T where there is none."""
    length = skipped_BT.shape[1]
    place_T = torch.arange(length, device=skipped_BT.device)
    kept_BT = place_T.masked_fill(skipped_BT | ~valid_BT, length)
    at_or_after_BT = kept_BT.flip(1).cummin(dim=1).values.flip(1)
    return torch.cat([at_or_after_BT[:, 1:], torch.full_like(at_or_after_BT[:, :1], length)], dim=1)


def skip_infonce(
    context_BTD: Tensor | None,
    items_BTD: Tensor,
    skipped_BT: Tensor,
    valid_BT: Tensor,
    skips_of_B: Tensor | None,
    temperature: float,
    queries: Literal["all", "kept"] = "all",
    rows_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pulls each context towards the next kept track, away from the skipped tracks of the session `skips_of_B`.

    `context_BTD`: None for the tracks themselves; `skips_of_B`: None for each session's own.
    Returns the loss [B, T] (zero where it is undefined) and a bool [B, T] of the positions that count: valid ones
    with a kept track after them, whose lending session (as a rule their own) has at least one skipped track; kept
    ones alone where `queries` says so. Similarity is cosine / temperature.
    `rows_BT`: int64, equal where two plays are of one track. With it, plays of a position's positive, and of its query
    where that is a track's own row, are no negatives, and a position without another negative does not count.
    """
    negative_BT, lent_rows_BT, lent_BTD = skipped_BT & valid_BT, rows_BT, None
    if skips_of_B is not None:
        negative_BT, lent_BTD = negative_BT[skips_of_B], items_BTD.index_select(0, skips_of_B)
        lent_rows_BT = None if rows_BT is None else rows_BT[skips_of_B]
    given: list[Any] = [context_BTD, items_BTD, lent_BTD, skipped_BT, valid_BT, negative_BT, rows_BT, lent_rows_BT]
    batch, length = skipped_BT.shape
    if items_BTD.device.type != "cpu" or batch * length**2 <= SCORES:
        return _infonce(*given, temperature=temperature, queries=queries)
    # As in attention: sessions of similar length together, so many that the cache holds what is compared.
    place_T = torch.arange(length)
    lengths_B, order_B = (
        ((valid_BT | negative_BT) * (place_T + 1)).amax(dim=1).clamp(min=1).sort(descending=True, stable=True)
    )
    groups = list(groups_of(lengths_B, 1))
    sizes = [group.sessions for group in groups]
    columns = [
        [None] * len(groups) if tensor is None else tensor.index_select(0, order_B).split(sizes) for tensor in given
    ]
    found: list[tuple[Tensor, ...]] = []
    for group, *tensors in zip(groups, *columns, strict=True):
        parts: list[Any] = [None if tensor is None else tensor[:, : group.length] for tensor in tensors]
        results = _infonce(*parts, temperature=temperature, queries=queries)
        found.append(tuple(torch.nn.functional.pad(result, (0, length - group.length)) for result in results))
    loss_BT, counts_BT = (torch.cat(parts).index_select(0, order_B.argsort()) for parts in zip(*found, strict=True))
    return loss_BT, counts_BT


def _infonce(
    context_BTD: Tensor | None,
    items_BTD: Tensor,
    lent_BTD: Tensor | None,
    skipped_BT: Tensor,
    valid_BT: Tensor,
    negative_BT: Tensor,
    rows_BT: Tensor | None,
    lent_rows_BT: Tensor | None,
    *,
    temperature: float,
    queries: Literal["all", "kept"],
) -> tuple[Tensor, Tensor]:
    length = items_BTD.shape[1]
    kept_at_BT = next_kept(skipped_BT, valid_BT)
    positive_at_BT = kept_at_BT.clamp(max=length - 1)
    negative_BTT = negative_BT[:, None, :]
    if rows_BT is not None and lent_rows_BT is not None:
        negative_BTT = negative_BTT & (lent_rows_BT[:, None, :] != rows_BT.gather(1, positive_at_BT)[:, :, None])
        if context_BTD is None:
            negative_BTT &= lent_rows_BT[:, None, :] != rows_BT[:, :, None]
    counts_BT = valid_BT & (kept_at_BT < length) & negative_BTT.any(dim=2)
    if queries == "kept":
        counts_BT = counts_BT & ~skipped_BT
    if context_BTD is None and lent_BTD is None:
        loss_BT = _OwnSkips.apply(items_BTD, negative_BTT, positive_at_BT[:, :, None], counts_BT, temperature)
        return loss_BT, counts_BT
    tracks_BTD = torch.nn.functional.normalize(items_BTD, dim=-1)
    contexts_BTD = tracks_BTD if context_BTD is None else torch.nn.functional.normalize(context_BTD, dim=-1)
    own_BTT = contexts_BTD @ tracks_BTD.transpose(1, 2) / temperature
    positive_BT = own_BTT.gather(2, positive_at_BT[:, :, None]).squeeze(2)
    lent_BTT = own_BTT
    if lent_BTD is not None:
        lent_BTT = contexts_BTD @ torch.nn.functional.normalize(lent_BTD, dim=-1).transpose(1, 2) / temperature
    loss_BT = sampled_softmax(positive_BT, lent_BTT.masked_fill(~negative_BTT, float("-inf")))
    return loss_BT.masked_fill(~counts_BT, 0.0), counts_BT


class _OwnSkips(torch.autograd.Function):
    """`sampled_softmax` of the cosines of a session's own tracks, in place wherever a number is not read again.

    Two products of T x T x D numbers a session instead of three, since a cosine is the same from both its tracks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        items_BTD: Tensor,
        negative_BTT: Tensor,
        positive_at_BT1: Tensor,
        counts_BT: Tensor,
        temperature: float,
    ) -> Tensor:
        """The losses [B, T]; `negative_BTT`: bool [B, 1 or T, T]."""
        inverse_BT1 = torch.linalg.vector_norm(items_BTD, dim=2, keepdim=True).clamp_(min=_EPS).reciprocal_()
        directions_BTD = items_BTD * inverse_BT1
        logits_BTT = torch.bmm(directions_BTD, directions_BTD.transpose(1, 2)).div_(temperature)
        positive_BT1 = logits_BTT.gather(2, positive_at_BT1)
        logits_BTT.masked_fill_(~negative_BTT, float("-inf"))
        highest_BT1 = torch.maximum(positive_BT1, logits_BTT.amax(dim=2, keepdim=True))
        share_BT1 = (positive_BT1 - highest_BT1).exp_()
        total_BT1 = logits_BTT.sub_(highest_BT1).exp_().sum(dim=2, keepdim=True).add_(share_BT1)
        loss_BT1 = total_BT1.log() + highest_BT1 - positive_BT1
        # The gradient of each logit: its probability, less one for the positive's.
        counts_BT1 = counts_BT[:, :, None]
        grad_BTT = logits_BTT.mul_(counts_BT1 / total_BT1)
        grad_BTT.scatter_add_(2, positive_at_BT1, (share_BT1 / total_BT1 - 1) * counts_BT1)
        ctx.save_for_backward(directions_BTD, inverse_BT1, grad_BTT)
        ctx.temperature = temperature
        return torch.where(counts_BT, loss_BT1.squeeze(2), 0.0)

    @staticmethod
    def backward(ctx: Any, grad_BT: Tensor) -> tuple[Tensor | None, ...]:
        directions_BTD, inverse_BT1, grad_BTT = ctx.saved_tensors
        grad_BTT = grad_BTT * (grad_BT / ctx.temperature)[:, :, None]
        grad_BTD = torch.bmm(grad_BTT + grad_BTT.transpose(1, 2), directions_BTD)
        along_BT1 = (directions_BTD * grad_BTD).sum(dim=2, keepdim=True)
        return grad_BTD.addcmul_(directions_BTD, along_BT1, value=-1).mul_(inverse_BT1), None, None, None, None
