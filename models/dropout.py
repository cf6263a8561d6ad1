"""Dropout whose masks are cheap on a CPU: four elements of a mask from one random word."""

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """Zeroes each element with probability `share` (to the nearest 1/65536) and scales the rest, in training only.

    The CPU's `bernoulli_` draws an element at a time, which was a fifth of a training step.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self._dropped = round(share * _LEVELS)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self._dropped:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.share)
        words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        draws = words.view(torch.int16)[: values.numel()].view(values.shape)
        kept = draws >= self._dropped - _LEVELS // 2
        return values * (kept * (_LEVELS / (_LEVELS - self._dropped))).to(values.dtype)

    def extra_repr(self) -> str:
        return f"share={self.share}"
