"""In-batch negatives: the targets of the whole global batch as one weighted pool, the same on any number of ranks.

A track that is the target of several positions, of any ranks, is one entry of the pool, weighted by their number. The
sum is the same as over single positions, and ranks with different sessions exchange tensors of one size, the bags.
Shape legend: B sessions, T positions, D width, U bags of the lookup, F facts of a bag, W bags of all ranks, and then
entries of the pool, E bags of all ranks that are negatives, X distinct tracks.
"""

from typing import Any

import torch
from torch import Tensor

from skipwise.common.distributed import gather_rows, scatter_sums, world_size
from skipwise.datapipes.batch import FEATURE, SessionBatch
from skipwise.models.recurring_products import rounded


def in_batch_pool(
    rows_UD: Tensor,
    batch: SessionBatch,
    num_tracks: int,
    exact_targets: bool = False,
    pad: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The targets of all ranks' batches and the K shared uniform negatives, if any, with log-q correction.

    Of P targets and K uniform draws from N tracks (`batch.drawn_from`), P * q + K / N are expected to be a track with
    the share q of the training plays. Its log is subtracted from every logit, the target's too (Yi et al.,
    "Sampling-Bias-Corrected Neural Modeling", RecSys 2019; with K > 0 Yang et al., "Mixed Negative Sampling", WWW 2020
    companion); dividing by P + K for a probability would change no loss.

    With `exact_targets` the target's logit stays as it is, since it is always there and not drawn, and P counts the
    targets of other sessions alone, which a session's negatives are: then the exponentials of the corrected logits add
    up, in expectation, to those of all tracks that the session does not contain. The gradient is that of Khrylchenko
    et al., "Correcting the LogQ Correction", RecSys 2025, arXiv 2507.09331, whose weight of a position, the
    probability of all but its target, is here the softmax's own.

    With `pad`, entries without weight make their number one that recurs at other steps.

    Returns (rows [W, D], whose gradients go back to the rank that looked them up; float32 [B, W], added to the logits
    of a session's queries: the entry's log weight less its log expectation, -inf for tracks of the session, its
    targets included; float32 [U], added to the logits of each bag's track as a target: its log expectation's negative,
    or 0).
    """
    bags, looked_up = len(rows_UD), batch.tracks[FEATURE].values()
    device = looked_up.device
    # Ascending, so that it can be searched; empty bags get the first number that is no row.
    row_U = torch.full((bags,), num_tracks, device=device)
    row_U[: len(looked_up)] = looked_up
    targets = batch.targets_BT.flatten()
    weight_U = torch.zeros(bags, device=device).index_add_(0, targets, torch.ones_like(targets, dtype=torch.float))
    weight_U[-1:].zero_()
    # Each rank contributes its share of the uniform negatives.
    weight_U.index_add_(0, batch.negatives_P, torch.ones_like(batch.negatives_P, dtype=torch.float))
    facts_U3 = torch.stack([row_U, weight_U, batch.log_q_U], dim=1).double()  # which holds row numbers exactly
    rows_WD, facts_W3 = _GatherRows.apply(rows_UD, facts_U3) if world_size() > 1 else (rows_UD, facts_U3)
    row_W, weight_W, log_q_W = facts_W3.unbind(1)
    drawn = weight_W.sum() - batch.negatives
    # More than half of the bags are empty or read alone, and would be columns of logits.
    entry_W = batch.entries_E
    if world_size() > 1:  # one entry of a track has the weight of those of all ranks
        place_E = weight_W.nonzero().squeeze(1)
        row_X, track_E = row_W[place_E].unique(return_inverse=True)
        entry_W = torch.full_like(row_X, len(row_W), dtype=torch.int64).scatter_reduce_(0, track_E, place_E, "amin")
        weight_X = torch.zeros_like(row_X).index_add_(0, track_E, weight_W[place_E])
        weight_W = torch.zeros_like(weight_W).index_copy_(0, entry_W, weight_X)
    if pad:
        hidden_X = (weight_W == 0).nonzero().squeeze(1)  # hidden by the log of their weight
        entry_W = torch.cat([entry_W, hidden_X[: rounded(len(entry_W)) - len(entry_W)]])
    row_W, weight_W, log_q_W = row_W[entry_W], weight_W[entry_W], log_q_W[entry_W]

    def log_expected(log_q: Tensor, drawn: Tensor) -> Tensor:
        return (drawn * log_q.double().exp() + batch.negatives / max(batch.drawn_from, 1)).log()

    # Once for all sessions, or for each without its own targets.
    drawn_B1 = drawn.reshape(1, 1)
    if exact_targets:
        own_B1 = (batch.targets_BT != bags - 1).sum(dim=1, keepdim=True)
        drawn_B1 = (drawn - own_B1).clamp(min=1)  # one session alone has no others' targets
    in_session_BU = torch.zeros(len(batch.items_BT), bags, dtype=torch.bool, device=device)
    in_session_BU.scatter_(1, batch.items_BT, True)
    bag_W = torch.searchsorted(row_U, row_W.long())
    in_session_BW = in_session_BU[:, bag_W] & (row_U[bag_W] == row_W)
    bias_BW = (weight_W.log() - log_expected(log_q_W, drawn_B1)).float()
    rows_WD = rows_WD.index_select(0, entry_W)
    target_U = torch.zeros(bags, device=device) if exact_targets else -log_expected(batch.log_q_U, drawn).float()
    return rows_WD, bias_BW.masked_fill(in_session_BW, float("-inf")), target_U


class _GatherRows(torch.autograd.Function):
    """`gather_rows` of rows and of float64 facts about them, by one exchange. The rows' gradient is the sum over all
    ranks of the gradients of this rank's part."""

    @staticmethod
    def forward(ctx: Any, part_UD: Tensor, facts_UF: Tensor) -> tuple[Tensor, Tensor]:
        width = part_UD.shape[1]
        both = gather_rows(torch.cat([part_UD, facts_UF.view(part_UD.dtype)], dim=1))
        facts_WF = both[:, width:].contiguous().view(facts_UF.dtype)
        ctx.mark_non_differentiable(facts_WF)
        return both[:, :width], facts_WF

    @staticmethod
    def backward(ctx: Any, grad_WD: Tensor, _: Tensor) -> tuple[Tensor, None]:
        return scatter_sums(grad_WD), None
