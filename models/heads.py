"""The two losses, as pure functions: each takes tensors and returns one value a position, without sampling anything.

Shape legend: B sessions, T positions, D width, V positions with a target, K negatives.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossConfig:
    """Loss = alpha * InfoNCE over skips + beta * sampled softmax (Seshadri & Knees, arXiv 2309.11623, section 3)."""

    context: Literal["none", "output", "track"] = "track"
    """What kept and skipped tracks are compared with: nothing (skip-blind), the encoder's output, or a track's row."""
    alpha: float = 0.5
    """Weight of the skip InfoNCE."""
    beta: float = 0.5
    """Weight of the sampled softmax."""
    temperature: float = 1.0
    """Divides the InfoNCE's cosines."""
    in_batch: bool = False
    """The targets of the whole global batch join the negatives, with log-q correction."""

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or self.alpha + self.beta == 0:
            raise ValueError("--loss.alpha and --loss.beta must not be negative, nor both zero")
        if not self.temperature > 0:
            raise ValueError(f"--loss.temperature {self.temperature} must be positive")


def sampled_softmax(target_V: Tensor, negatives_VK: Tensor) -> Tensor:
    """Negative log-likelihood [V] of the target's logit against itself and K negatives' logits (-inf: left out).

    With every track but the target as a negative this is the full softmax.
    """
    return torch.logaddexp(target_V, negatives_VK.logsumexp(dim=-1)) - target_V


def next_kept(skipped_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """int64 [B, T]: the position of the next kept track after each position, T where there is none."""
    length = skipped_BT.shape[1]
    place_T = torch.arange(length, device=skipped_BT.device)
    kept_BT = torch.where(valid_BT & ~skipped_BT, place_T, length)
    at_or_after_BT = kept_BT.flip(1).cummin(dim=1).values.flip(1)
    return torch.cat([at_or_after_BT[:, 1:], torch.full_like(at_or_after_BT[:, :1], length)], dim=1)


def skip_infonce(
    context_BTD: Tensor, items_BTD: Tensor, skipped_BT: Tensor, valid_BT: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Pulls each context towards the next kept track, away from the skipped tracks of its own session.

    Returns the loss [B, T] (zero where it is undefined) and a bool [B, T] of the positions that count: valid ones
    with a kept track after them, in a session with at least one skipped track. Similarity is cosine / temperature.
    """
    length = items_BTD.shape[1]
    kept_at_BT = next_kept(skipped_BT, valid_BT)
    negative_BT = skipped_BT & valid_BT
    counts_BT = valid_BT & (kept_at_BT < length) & negative_BT.any(dim=1, keepdim=True)
    normalize = torch.nn.functional.normalize
    # All cosines of a session at once: B x T contexts x T tracks.
    cosine_BTT = normalize(context_BTD, dim=-1) @ normalize(items_BTD, dim=-1).transpose(1, 2) / temperature
    positive_BT = cosine_BTT.gather(2, kept_at_BT.clamp(max=length - 1)[:, :, None]).squeeze(2)
    # A session without skips has only -inf to sum, whose gradient is NaN: give it a harmless zero instead.
    negative_BT = negative_BT | ~negative_BT.any(dim=1, keepdim=True)
    negatives_BTT = cosine_BTT.masked_fill(~negative_BT[:, None, :], float("-inf"))
    loss_BT = sampled_softmax(positive_BT, negatives_BTT)
    return torch.where(counts_BT, loss_BT, 0.0), counts_BT
