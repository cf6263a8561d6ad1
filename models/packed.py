"""The positions of a batch's sessions as one list, and what looks across them: with padding, or packed without it.

Shape legend: B sessions, T positions, N positions of the list, D width, H heads, X any width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipwise.models import fused
from skipwise.models.attention import HIDDEN, attend
from skipwise.models.dropout import Dropout
from skipwise.models.head_rows import HeadRows
from skipwise.models.time_bias import TimedMask


@dataclass(frozen=True)
class Padded:
    """All B x T positions as one list, padding included."""

    batch: int
    length: int

    def most_scores(self, heads: int) -> int:
        """Attention's at once."""
        return self.batch * heads * self.length**2

    def attend(
        self,
        projected_NX: Tensor,
        mask: Tensor | TimedMask,
        causal: bool,
        dropout: Dropout | None,
        heads: int,
        silu: float | None = None,
    ) -> Tensor:
        """As `skipwise.models.attention.attend`, with a mask [B, H or 1, T, T] that hides padding too."""
        assert isinstance(mask, Tensor)
        dim, width = projected_NX.shape[1] // 3, projected_NX.shape[1] // (3 * heads)
        # B * T x 3D -> 3 x B x H x T x D/H
        parts = projected_NX.view(self.batch, self.length, 3, heads, width).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        # Plain products: on sessions this short they are ten times faster than the fused attention of CPUs.
        scores_BHTT = query @ key.transpose(-1, -2) / math.sqrt(width) + mask
        if silu is None:
            weights_BHTT = scores_BHTT.softmax(dim=-1)
        else:
            weights_BHTT = nn.functional.silu(scores_BHTT.clamp(min=HIDDEN)) * silu
        seen_BHTW = (weights_BHTT if dropout is None else dropout(weights_BHTT)) @ value
        return seen_BHTW.transpose(1, 2).reshape(-1, dim)

    def collect(self, values_BT: Tensor) -> Tensor:
        """[B * T, ...] of [B, T, ...]."""
        return values_BT.flatten(0, 1)

    def spread(self, values_NX: Tensor) -> Tensor:
        """[B, T, X] of [B * T, X]."""
        return values_NX.view(self.batch, self.length, values_NX.shape[1])

    def prepended(self) -> "Padded":
        """The same with one more position before each session's first."""
        return Padded(self.batch, self.length + 1)

    def prepend(self, first_BX: Tensor, values_NX: Tensor) -> Tensor:
        """The values of positions that are `prepended`: `first_BX` of the first ones."""
        return torch.cat([first_BX[:, None], values_NX.view(self.batch, -1, values_NX.shape[1])], dim=1).flatten(0, 1)

    def without_first(self, values_NX: Tensor) -> Tensor:
        """Of values of positions that are `prepended`, those of all others."""
        return self.spread(values_NX)[:, 1:].flatten(0, 1)


class Packed:
    """The N positions that are read, as one list, so that position-wise layers skip padding."""

    def __init__(self, batch: int, length: int, tokens_N: Tensor, source_N: Tensor | None = None):
        """`tokens_N`: int64, b * T + t of each, ascending; `source_N`: of those that are `prepended`, the place of each
        among the B first ones and, behind them, the others."""
        self.batch, self.length, self.tokens_N, self._source_N = batch, length, tokens_N, source_N
        self._head_rows: HeadRows | None = None
        self._starts: Tensor | None = None

    def collect(self, values_BT: Tensor) -> Tensor:
        """[N, ...] of [B, T, ...]."""
        return _Collect.apply(values_BT.flatten(0, 1), self.tokens_N)

    def spread(self, values_NX: Tensor) -> Tensor:
        """[B, T, X] of [N, X], zero at padding."""
        spread_PX = values_NX.new_zeros(self.batch * self.length, values_NX.shape[1])
        return spread_PX.index_copy_(0, self.tokens_N, values_NX).view(self.batch, self.length, -1)

    def prepended(self) -> "Packed":
        """The same with one more position before each session's first."""
        first_B = torch.arange(self.batch, device=self.tokens_N.device) * (self.length + 1)
        behind_N = self.tokens_N + self.tokens_N // self.length + 1
        tokens_N, source_N = torch.cat([first_B, behind_N]).sort()
        return Packed(self.batch, self.length + 1, tokens_N, source_N)

    def prepend(self, first_BX: Tensor, values_NX: Tensor) -> Tensor:
        """The values of positions that are `prepended`: `first_BX` of the first ones."""
        assert self._source_N is not None
        return _Collect.apply(torch.cat([first_BX, values_NX]), self._source_N)

    def without_first(self, values_NX: Tensor) -> Tensor:
        """Of values of positions that are `prepended`, those of all others."""
        assert self._source_N is not None
        return _Collect.apply(values_NX, self._source_N.argsort()[self.batch :])

    def attend(
        self,
        projected_NX: Tensor,
        mask: Tensor | TimedMask,
        causal: bool,
        dropout: Dropout | None,
        heads: int,
        silu: float | None = None,
    ) -> Tensor:
        """`skipwise.models.attention.attend`, with a mask [H or 1, T, T]: one for all heads says what `causal` does."""
        if (
            silu is None
            and isinstance(mask, Tensor)
            and len(mask) < heads
            and fused.takes(projected_NX, heads, self.length)
        ):
            share = dropout.share if dropout is not None and dropout.training else 0.0
            return fused.attend(projected_NX, self._starts_B1(), self.length, causal, share, heads)
        dropped = None if dropout is None else dropout.mask
        return attend(projected_NX, self._rows(heads), mask, causal, dropped, heads, silu)

    def most_scores(self, heads: int) -> int:
        """Attention's at once."""
        return self._rows(heads).most_scores(heads)

    def _rows(self, heads: int) -> HeadRows:
        """The same for all blocks."""
        if self._head_rows is None:
            self._head_rows = HeadRows.of(self.tokens_N, self.batch, self.length, heads)
        return self._head_rows

    def _starts_B1(self) -> Tensor:
        """int32 [B + 1]: before each session and after the last, how many positions there are."""
        if self._starts is None:
            first_B1 = torch.arange(self.batch + 1, device=self.tokens_N.device) * self.length
            self._starts = torch.searchsorted(self.tokens_N, first_B1, out_int32=True)
        return self._starts


class _Collect(torch.autograd.Function):
    """`index_select` of distinct rows, whose gradient is a copy back to those rows and not a sum."""

    @staticmethod
    def forward(ctx: Any, values_PX: Tensor, index_N: Tensor) -> Tensor:
        ctx.save_for_backward(index_N)
        ctx.num_rows = values_PX.shape[0]
        return values_PX.index_select(0, index_N)

    @staticmethod
    def backward(ctx: Any, grad_NX: Tensor) -> tuple[Tensor, None]:
        (index_N,) = ctx.saved_tensors
        return grad_NX.new_zeros(ctx.num_rows, *grad_NX.shape[1:]).index_copy_(0, index_N, grad_NX), None
