"""In-batch negatives: the targets of the whole global batch as one weighted pool, the same on any number of ranks.

A track that is the target of several positions stands in the pool once a rank, with their number as its weight: the
same sum as over the positions one by one, and ranks of unlike sessions still exchange tensors of one size, the bags.
Shape legend: B sessions, T positions, D width, U bags of the lookup, W entries of the pool (the U bags of each rank).
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from skipwise.datapipes.batch import SessionBatch


@dataclass(frozen=True)
class Pool:
    """What every query of this rank is compared with, beside its own target."""

    rows_WD: Tensor
    """Track rows; their gradients go back to the rank that looked them up."""
    bias_BW: Tensor
    """float32, added to the logits of a session's queries: the entry's log weight less `log_expected_U`; -inf for
    what is in the session (its targets are) and for bags that are no negatives."""
    log_expected_U: Tensor
    """float32: log of how often a pool is expected to hold each track of this rank; leaves the target's logit too."""


def in_batch_pool(rows_UD: Tensor, batch: SessionBatch, tracks: int) -> Pool:
    """The targets of all ranks' batches and the K shared uniform negatives, if any, with log-q correction.

    Of P targets and K uniform draws from N tracks, P * q + K / N are expected to be a track with the share q of the
    training plays. Its log is subtracted from every logit, the target's too (Yi et al., "Sampling-Bias-Corrected
    Neural Modeling", RecSys 2019; with K > 0 Yang et al., "Mixed Negative Sampling", WWW 2020 companion); dividing
    by P + K for a probability would change no loss.
    """
    bags, ranks = len(rows_UD), _ranks()
    held = batch.tracks.values()
    # Ascending, so that it can be searched; empty bags get the first number that is no row.
    row_U = torch.full((bags,), tracks, device=held.device)
    row_U[: len(held)] = held
    targets = batch.targets_BT.flatten()
    weight_U = torch.zeros(bags, device=held.device).index_add_(0, targets, torch.ones_like(targets, dtype=torch.float))
    weight_U[-1] = 0
    # All ranks drew the same uniform negatives, and each brings its part of their weight.
    uniform = batch.negatives_P
    weight_U.index_add_(0, uniform, torch.full_like(uniform, 1 / ranks, dtype=torch.float))
    # float64 holds row numbers exactly.
    row_W, weight_W, log_q_W = _gather(torch.stack([row_U, weight_U, batch.log_q_U], dim=1).double()).unbind(1)
    drawn = weight_W.sum() - len(uniform)

    def log_expected(log_q: Tensor) -> Tensor:
        return (drawn * log_q.double().exp() + len(uniform) / tracks).log()

    in_session_BU = torch.zeros(len(batch.items_BT), bags, dtype=torch.bool, device=held.device)
    in_session_BU.scatter_(1, batch.items_BT, True)
    bag_W = torch.searchsorted(row_U, row_W.long())
    in_session_BW = in_session_BU[:, bag_W] & (row_U[bag_W] == row_W)
    bias_W = (weight_W.log() - log_expected(log_q_W)).float()
    return Pool(
        rows_WD=_GatherRows.apply(rows_UD) if ranks > 1 else rows_UD,
        bias_BW=bias_W.masked_fill(in_session_BW, float("-inf")),
        log_expected_U=log_expected(batch.log_q_U).float(),
    )


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _gather(part: Tensor) -> Tensor:
    """All ranks' tensors of this shape, one after the other along the first dimension."""
    if _ranks() == 1:
        return part
    whole = part.new_empty(_ranks() * len(part), *part.shape[1:])
    dist.all_gather_single(whole, part.contiguous())
    return whole


class _GatherRows(torch.autograd.Function):
    """`_gather`, whose gradient is the sum of what all ranks' losses ask of this rank's part."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, part: Tensor) -> Tensor:
        return _gather(part)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        part = gradient.new_empty(len(gradient) // _ranks(), *gradient.shape[1:])
        dist.reduce_scatter_single(part, gradient.contiguous())
        return part
