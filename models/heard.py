"""Tracks heard in the session as negatives of its own positions, beside those that are drawn.

Shape legend: B sessions, T positions, D width, V positions with a target.
"""

import torch
from torch import Tensor

from skipwise.datapipes.batch import SessionBatch


def heard_logits(predictions_BTD: Tensor, items_BTD: Tensor, batch: SessionBatch, causal: bool) -> Tensor:
    """float32 [V]: logsumexp of each query's logits with the tracks heard, each once, its target left out.

    Heard are the visible tracks up to and including the position where `causal`, else all visible ones of the session.
    Where none is left, it is so low that its exponential is zero.
    """
    items_BT, length = batch.items_BT, batch.items_BT.shape[1]
    empty = batch.tracks.stride() - 1
    place_T = torch.arange(length, device=items_BT.device)
    visible_BT = (items_BT != empty) & ~batch.masked_BT
    before_BTT = (items_BT[:, :, None] == items_BT[:, None, :]) & visible_BT[:, None, :] & (place_T < place_T[:, None])
    first_BT = visible_BT & ~before_BTT.any(dim=2)
    heard_BTT = first_BT[:, None, :] & (batch.targets_BT[:, :, None] != items_BT[:, None, :])
    if causal:
        heard_BTT &= place_T <= place_T[:, None]
    logits_BTT = (predictions_BTD @ items_BTD.to(predictions_BTD.dtype).transpose(1, 2)).float()
    # Finite, because the gradient of a logsumexp of nothing but -inf is NaN.
    lowest = torch.finfo(torch.float32).min
    return logits_BTT.masked_fill(~heard_BTT, lowest).flatten(0, 1)[batch.queries_V].logsumexp(dim=1)
