"""Tracks of the session as negatives of its own positions, beside those that are drawn.

Shape legend: B sessions, T positions, D width, V positions with a target.
"""

import torch
from torch import Tensor

from skipwise.datapipes.batch import SessionBatch
from skipwise.models.heads import next_kept


def session_logits(
    predictions_BTD: Tensor, items_BTD: Tensor, batch: SessionBatch, causal: bool, heard: bool, skipped: float
) -> Tensor:
    """float32 [V]: logsumexp of each query's logits with tracks of its session, its target left out.

    `heard`: the visible tracks up to and including the position where `causal`, else all visible ones, each once.
    `skipped`: as how many each track counts, once, that the listener skipped before the next kept track after the
    position, which is the target. Where none is left, it is so low that its exponential is zero.
    """
    items_BT, length = batch.items_BT, batch.items_BT.shape[1]
    empty = batch.tracks.stride() - 1
    place_T = torch.arange(length, device=items_BT.device)
    visible_BT = (items_BT != empty) & ~batch.masked_BT
    earlier_BTT = (items_BT[:, :, None] == items_BT[:, None, :]) & (place_T < place_T[:, None])

    def first(plays_BT: Tensor) -> Tensor:
        """[B, 1, T]: of these plays, the first of each track."""
        return (plays_BT & ~(earlier_BTT & plays_BT[:, None, :]).any(dim=2))[:, None, :]

    count_BTT = torch.zeros(earlier_BTT.shape, device=items_BT.device)
    if heard:
        count_BTT += first(visible_BT) & (place_T <= place_T[:, None] if causal else True)
    if skipped:
        kept_at_BT = next_kept(batch.skipped_BT, visible_BT & batch.known_BT)
        count_BTT += skipped * (first(visible_BT & batch.skipped_BT) & (place_T < kept_at_BT[:, :, None]))
    left_out_BTT = (count_BTT == 0) | (batch.targets_BT[:, :, None] == items_BT[:, None, :])
    logits_BTT = (predictions_BTD @ items_BTD.to(predictions_BTD.dtype).transpose(1, 2)).float() + count_BTT.log()
    # Finite, because the gradient of a logsumexp of nothing but -inf is NaN.
    lowest = torch.finfo(torch.float32).min
    return logits_BTT.masked_fill(left_out_BTT, lowest).flatten(0, 1)[batch.queries_V].logsumexp(dim=1)
