"""Dropout with masks that are fast on a CPU: one pool of random elements a step, of which each call takes a slice."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
_SLACK = 1 << 16


class Dropout(nn.Module):
    """Zeroes each element with probability `share` (to the nearest 1/65536) and scales the rest, in training only.

    On a CPU, `renew` draws the pool of a step, and each call takes as many elements as it has values, from a random
    offset. Within a call they are independent; two calls of one step may share elements, at unrelated offsets. To draw
    each call's own would take a fifth of a training step, with `bernoulli_` twice that.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self._dropped = min(round(share * _LEVELS), _LEVELS - 1)
        self._pools: dict[torch.dtype, Tensor] = {}

    def renew(self, most: int, device: torch.device) -> None:
        """Draws a new pool, for calls of up to `most` values."""
        if not self.training or not self._dropped or device.type != "cpu":
            return
        words = torch.empty((most + _SLACK + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        kept = words.view(torch.int16) >= self._dropped - _LEVELS // 2
        self._pools = {torch.float32: kept * (_LEVELS / (_LEVELS - self._dropped))}

    def forward(self, values: Tensor) -> Tensor:
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.share, self.training)
        mask = self.mask(values.shape, values)
        return values if mask is None else values * mask

    def mask(self, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """A factor for values of this shape, in the dtype of `like`; None where nothing is dropped."""
        if not self.training or not self._dropped:
            return None
        if like.device.type != "cpu":
            return nn.functional.dropout(like.new_ones(shape), self.share)
        if like.dtype not in self._pools:
            self._pools[like.dtype] = self._pools[torch.float32].to(like.dtype)
        pool, count = self._pools[like.dtype], math.prod(shape)
        first = int(torch.randint(len(pool) - count + 1, ()))
        return pool[first : first + count].view(shape)
