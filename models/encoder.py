"""The transformer over a session: unidirectional (SASRec-like) or bidirectional (BERT4Rec-like).

Kang & McAuley, arXiv 1808.09781; Sun et al., arXiv 1904.06690; Seshadri & Knees, arXiv 2309.11623, section 3.
Shape legend: B sessions, T positions, D width, H heads.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.dropout import Dropout


@dataclass(frozen=True)
class EncoderConfig:
    """Shape and regularization of the encoder."""

    direction: Literal["unidirectional", "bidirectional"] = "unidirectional"
    """Which positions a position sees: those before it, or all (trained by cloze)."""
    max_length: int = 20
    """Longest session, in positions; the bidirectional mask token counts as one of them."""
    positions: Literal["learned", "relative"] = "learned"
    """How order is told: a learned vector a position (the paper), or a learned bias a head and distance between two
    positions (Shaw et al., arXiv 1803.02155; as a bias: Raffel et al., arXiv 1910.10683)."""
    blocks: int = 2
    heads: int = 8
    hidden: int = 128
    """Inner width of a block's feed-forward layer."""
    dropout: float = 0.2
    """Share of activations dropped in training, in [0, 1)."""
    track_dropout: float = 0.0
    """Share of the tracks read that training hides from the encoder, each whole, in [0, 1)."""
    norm_first: bool = False
    """Normalize before each sub-layer instead of after it."""
    mask_probability: float = 0.2
    """Bidirectional only: share of positions masked in training (paper: 0.2)."""

    def __post_init__(self) -> None:
        for name in ("max_length", "blocks", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"--encoder.{name.replace('_', '-')} must be at least 1")
        for name in ("dropout", "track_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--encoder.{name.replace('_', '-')} {getattr(self, name)} must lie in [0, 1)")
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"--encoder.mask-probability {self.mask_probability} must lie between 0 and 1")


class Encoder(nn.Module):
    """Track rows in, predictions out; a prediction is compared with track rows by inner product."""

    def __init__(self, config: EncoderConfig, dim: int):
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
        self.prediction = nn.Sequential(nn.Linear(dim, dim), nn.GELU())

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal in plus and minus 0.02 for weights and positions, zero for biases (paper, section 4)."""
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02, generator=generator)

    def forward(self, items_BTD: Tensor, inputs_B: Tensor, masked_BT: Tensor) -> Tensor:
        """Predictions [B, T, D].

        `inputs_B`: positions to read of each session; `masked_BT`: positions whose track is replaced by the mask
        token. Learned positions count from the session's end: the last one, which predicts, is the same for any length.
        """
        length = items_BTD.shape[1]
        place_T = torch.arange(length, device=items_BTD.device)
        real_BT = place_T < inputs_B[:, None]
        if self.training and self.config.track_dropout:
            shown_BT = torch.rand(items_BTD.shape[:2], device=items_BTD.device) >= self.config.track_dropout
            items_BTD = items_BTD * shown_BT[:, :, None]
        if self.mask_token is not None:
            items_BTD = torch.where(masked_BT[:, :, None], self.mask_token.to(items_BTD.dtype), items_BTD)
        if self.positions is not None:
            from_end_BT = (place_T - inputs_B[:, None] + self.config.max_length).clamp(max=self.config.max_length - 1)
            items_BTD = items_BTD + nn.functional.embedding(from_end_BT, self.positions)
        hidden_BTD = self.dropout(self.norm(items_BTD))
        visible_BTT = real_BT[:, None, :].expand(-1, length, -1)
        if self.config.direction == "unidirectional":
            visible_BTT = visible_BTT & (place_T[:, None] >= place_T)
        # A row that sees nothing would turn into NaN: padding sees everything, and nobody sees padding.
        hidden_mask_B1TT = torch.where(visible_BTT | ~real_BT[:, :, None], 0.0, float("-inf"))[:, None]
        for number, block in enumerate(self.blocks):
            mask_BHTT = hidden_mask_B1TT
            if self.distance_bias is not None:
                mask_BHTT = mask_BHTT + self.distance_bias[number][:, self._distances(place_T)]
            hidden_BTD = block(hidden_BTD, mask_BHTT)
        return self.prediction(hidden_BTD)

    def _distances(self, place_T: Tensor) -> Tensor:
        """int64 [T, T]: the bias of the distance between two positions, the middle one for none."""
        farthest = self.config.max_length - 1
        return (place_T[:, None] - place_T).clamp(-farthest, farthest) + farthest


class Block(nn.Module):
    """Self-attention and feed-forward, each with dropout, a residual and a layer norm."""

    def __init__(self, config: EncoderConfig, dim: int):
        super().__init__()
        self.heads, self.norm_first = config.heads, config.norm_first
        self.project = nn.Linear(dim, 3 * dim)
        self.merge = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, config.hidden), nn.ReLU(), Dropout(config.dropout), nn.Linear(config.hidden, dim)
        )
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden_BTD: Tensor, mask_BHTT: Tensor) -> Tensor:
        """`mask_BHTT` is added to the attention scores: -inf where the row may not look, elsewhere 0 or a bias."""
        if self.norm_first:
            hidden_BTD = hidden_BTD + self.dropout(self._attend(self.attention_norm(hidden_BTD), mask_BHTT))
            return hidden_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_BTD)))
        hidden_BTD = self.attention_norm(hidden_BTD + self.dropout(self._attend(hidden_BTD, mask_BHTT)))
        return self.feed_forward_norm(hidden_BTD + self.dropout(self.feed_forward(hidden_BTD)))

    def _attend(self, hidden_BTD: Tensor, mask_BHTT: Tensor) -> Tensor:
        batch, length, dim = hidden_BTD.shape
        # B x T x 3D -> 3 x B x H x T x D/H
        parts = self.project(hidden_BTD).view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        # Plain products: on sessions this short they beat CPU's fused attention by an order of magnitude.
        scores_BHTT = query @ key.transpose(-1, -2) / math.sqrt(dim // self.heads) + mask_BHTT
        weights_BHTT = self.dropout(scores_BHTT.softmax(dim=-1))
        return self.merge((weights_BHTT @ value).transpose(1, 2).reshape(batch, length, dim))
