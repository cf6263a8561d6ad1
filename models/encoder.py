"""The transformer over a session: unidirectional (SASRec-like) or bidirectional (BERT4Rec-like).

Kang & McAuley, arXiv 1808.09781; Sun et al., arXiv 1904.06690; Seshadri & Knees, arXiv 2309.11623, section 3.
Shape legend: B sessions, T positions, D width, H heads.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipwise.models.attention import HeadRows, attend
from skipwise.models.config import EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.keep import KeepHead


class Encoder(nn.Module):
    """Track rows in, predictions out; a prediction is compared with track rows by inner product.

    With a keep head F + 1 more columns follow, r and b: r . f + b is the logit of P(kept) of a track whose columns of
    the keep head are f.
    """

    def __init__(
        self,
        config: EncoderConfig,
        dim: int,
        keep_dim: int = 0,
        reads_signals: bool = False,
        keep_dropout: float = 0.0,
    ):
        """`keep_dim`: F, 0 without a keep head; `reads_signals`: whether calls give signals beside tracks."""
        super().__init__()
        self.config = config
        learned = config.positions == "learned"
        self.positions = nn.Parameter(torch.empty(config.max_length, dim)) if learned else None
        distances = config.blocks, config.heads, 2 * config.max_length - 1
        self.distance_bias = None if learned else nn.Parameter(torch.empty(distances))
        self.mask_token = nn.Parameter(torch.empty(dim)) if config.direction == "bidirectional" else None
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, dim) for _ in range(config.blocks))
        # Blocks that normalize first leave their last sum as it is.
        self.final_norm = nn.LayerNorm(dim) if config.norm_first else None
        linear = nn.Sequential(nn.Linear(dim, dim), nn.GELU())
        self.prediction = linear if config.prediction == "gelu" else nn.Identity()
        self.keep = KeepHead(dim, keep_dim, reads_signals, config.dropout, keep_dropout) if keep_dim else None

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal in plus and minus 0.02 for weights and positions, zero for biases (paper, section 4)."""
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02, generator=generator)
        if self.keep is not None:
            self.keep.reset_parameters(generator)

    def padded(
        self, items_BTD: Tensor, inputs_B: Tensor, masked_BT: Tensor, signals_BTD: Tensor | None = None
    ) -> Tensor:
        """Predictions [B, T, D], computed at padding too: for programs whose shapes must not depend on the data.

        `inputs_B`: positions to read of each session; `masked_BT`: positions whose track is replaced by the mask
        token. Learned positions count from the session's end: the last one, which predicts, is the same for any length.
        `signals_BTD`: the sum of what is read of each play beside its track.
        """
        batch, length, dim = items_BTD.shape
        places = Padded(batch, length)
        signals_ND = None if signals_BTD is None else signals_BTD.reshape(-1, dim)
        return self(items_BTD.reshape(-1, dim), places, inputs_B, masked_BT, signals_ND).view(batch, length, -1)

    def queries(
        self, items_BTD: Tensor, inputs_B: Tensor, masked_BT: Tensor, signals_BTD: Tensor | None = None
    ) -> Tensor:
        """[B, D]: the prediction at each session's last position to read, of `padded`."""
        predictions_BTD = self.padded(items_BTD, inputs_B, masked_BT, signals_BTD)
        last_B = (inputs_B - 1).clamp(min=0)
        # By shape, because `len` would fix a traced program to the number of sessions of its example.
        return predictions_BTD[torch.arange(items_BTD.shape[0], device=items_BTD.device), last_B]

    def forward(
        self,
        items_ND: Tensor,
        places: "Padded | Packed",
        inputs_B: Tensor,
        masked_BT: Tensor,
        signals_ND: Tensor | None = None,
    ) -> Tensor:
        """Predictions [N, D] at the positions in `places`.

        Only attention and the keep head's state look across positions, within a session.
        """
        length, device = places.length, items_ND.device
        place_T = torch.arange(length, device=device)
        real_BT = place_T < inputs_B[:, None]
        if self.training:
            width, heads = max(items_ND.shape[1], self.config.hidden), self.config.heads
            self.dropout.renew(max(len(items_ND) * width, places.most_scores(heads)), device)
        states_NH = None
        if signals_ND is not None:
            items_ND = items_ND + signals_ND
            if self.keep is not None and self.keep.state is not None:
                read_ND = torch.where(places.collect(masked_BT)[:, None], 0.0, signals_ND)
                states_NH = places.collect(self.keep.states(places.spread(read_ND)))
        if self.training and self.config.track_dropout:
            shown_N1 = torch.rand(len(items_ND), 1, device=device) >= self.config.track_dropout
            items_ND = items_ND * shown_N1
        if self.mask_token is not None:
            items_ND = torch.where(places.collect(masked_BT)[:, None], self.mask_token.to(items_ND.dtype), items_ND)
        if self.positions is not None:
            from_end_BT = (place_T - inputs_B[:, None] + self.config.max_length).clamp(max=self.config.max_length - 1)
            items_ND = items_ND + nn.functional.embedding(places.collect(from_end_BT), self.positions)
        hidden_ND = self.dropout(self.norm(items_ND))
        visible_TT = (place_T[:, None] >= place_T) | (self.config.direction == "bidirectional")
        hidden_mask = torch.where(visible_TT, 0.0, float("-inf"))[None]
        if isinstance(places, Padded):
            # A row that sees nothing would become NaN: padding sees itself, and nothing read sees padding.
            padding_B1TT = torch.where(real_BT[:, None, :] | ~real_BT[:, :, None], 0.0, float("-inf"))[:, None]
            hidden_mask = hidden_mask + padding_B1TT
        for number, block in enumerate(self.blocks):
            mask = hidden_mask
            if self.distance_bias is not None:
                farthest = self.config.max_length - 1
                distance_TT = (place_T[:, None] - place_T).clamp(-farthest, farthest) + farthest
                mask = mask + self.distance_bias[number][:, distance_TT]
            hidden_ND = block(hidden_ND, places, mask, self.dropout)
        hidden_ND = hidden_ND if self.final_norm is None else self.final_norm(hidden_ND)
        predictions_ND = self.prediction(hidden_ND)
        if self.keep is None:
            return predictions_ND
        return torch.cat([predictions_ND, self.keep(hidden_ND, states_NH)], dim=1)


@dataclass(frozen=True)
class Padded:
    """All B x T positions as one list, padding included."""

    batch: int
    length: int

    def most_scores(self, heads: int) -> int:
        """Attention's at once."""
        return self.batch * heads * self.length**2

    def collect(self, values_BT: Tensor) -> Tensor:
        """[B * T, ...] of [B, T, ...]."""
        return values_BT.flatten(0, 1)

    def spread(self, values_NX: Tensor) -> Tensor:
        """[B, T, X] of [B * T, X]."""
        return values_NX.view(self.batch, self.length, values_NX.shape[1])


class Packed:
    """The N positions that are read, as one list, so that position-wise layers skip padding."""

    def __init__(self, batch: int, length: int, tokens_N: Tensor):
        """`tokens_N`: int64, b * T + t of each, ascending."""
        self.batch, self.length, self.tokens_N = batch, length, tokens_N
        self._head_rows: HeadRows | None = None

    def collect(self, values_BT: Tensor) -> Tensor:
        """[N, ...] of [B, T, ...]."""
        return _Collect.apply(values_BT.flatten(0, 1), self.tokens_N)

    def spread(self, values_NX: Tensor) -> Tensor:
        """[B, T, X] of [N, X], zero at padding."""
        spread_PX = values_NX.new_zeros(self.batch * self.length, values_NX.shape[1])
        return spread_PX.index_copy_(0, self.tokens_N, values_NX).view(self.batch, self.length, -1)

    def head_rows(self, heads: int) -> HeadRows:
        """The same for all blocks."""
        if self._head_rows is None:
            self._head_rows = HeadRows.of(self.tokens_N, self.batch, self.length, heads)
        return self._head_rows

    def most_scores(self, heads: int) -> int:
        """Attention's at once."""
        return self.head_rows(heads).most_scores(heads)


class Block(nn.Module):
    """Self-attention and feed-forward, each with dropout, a residual and a layer norm."""

    def __init__(self, config: EncoderConfig, dim: int):
        super().__init__()
        self.heads, self.norm_first = config.heads, config.norm_first
        self.causal = config.direction == "unidirectional"
        self.project = nn.Linear(dim, 3 * dim)
        self.merge = nn.Linear(dim, dim)
        self.widen = nn.Linear(dim, config.hidden)
        self.narrow = nn.Linear(config.hidden, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, hidden_ND: Tensor, places: Padded | Packed, mask: Tensor, dropout: Dropout) -> Tensor:
        """`mask` is added to the attention scores: -inf where the row may not look, elsewhere 0 or a bias.

        [H or 1, T, T] for `Packed` positions, which hide padding themselves; [B, H or 1, T, T] for `Padded` ones.
        """

        def attention(values_ND: Tensor) -> Tensor:
            return dropout(self._attend(values_ND, places, mask, dropout))

        def feed_forward(values_ND: Tensor) -> Tensor:
            return dropout(self.narrow(dropout(self.widen(values_ND).relu())))

        if self.norm_first:
            hidden_ND = hidden_ND + attention(self.attention_norm(hidden_ND))
            return hidden_ND + feed_forward(self.feed_forward_norm(hidden_ND))
        hidden_ND = self.attention_norm(hidden_ND + attention(hidden_ND))
        return self.feed_forward_norm(hidden_ND + feed_forward(hidden_ND))

    def _attend(self, hidden_ND: Tensor, places: Padded | Packed, mask: Tensor, dropout: Dropout) -> Tensor:
        projected_NX = self.project(hidden_ND)
        if isinstance(places, Packed):
            rows = places.head_rows(self.heads)
            return self.merge(attend(projected_NX, rows, mask, self.causal, dropout.mask, self.heads))
        dim, width = hidden_ND.shape[1], hidden_ND.shape[1] // self.heads
        # B * T x 3D -> 3 x B x H x T x D/H
        parts = projected_NX.view(places.batch, places.length, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        # Plain products: on sessions this short they are ten times faster than the fused attention of CPUs.
        scores_BHTT = query @ key.transpose(-1, -2) / math.sqrt(width) + mask
        seen_BHTW = dropout(scores_BHTT.softmax(dim=-1)) @ value
        return self.merge(seen_BHTW.transpose(1, 2).reshape(-1, dim))


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
