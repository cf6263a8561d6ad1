"""LiGR's block: attention and a SwiGLU, each normalized before, and added as far as a gate of its input says.

Borisyuk et al., "From Features to Transformers" (LiGR), arXiv 2502.03417; in eSASRec, Tikhonovich et al., RecSys 2025,
arXiv 2508.06450. Shape legend: N positions of the list, D width, H heads, T positions.
"""

from torch import Tensor, nn

from skipwise.models.config import EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.packed import Packed, Padded
from skipwise.models.recurring_products import RowLinear
from skipwise.models.time_bias import TimedMask


class LigrBlock(nn.Module):
    """x + sigmoid(W x) * f(norm(x)), with attention and then a SwiGLU (Shazeer, arXiv 2002.05202) for f."""

    def __init__(self, config: EncoderConfig, dim: int, number: int):
        """`number`: the block's place in the stack, from 0."""
        super().__init__()
        self.heads, self.causal = config.heads, config.direction == "unidirectional"
        self.project = RowLinear(dim, 3 * dim)
        self.merge = RowLinear(dim, dim)
        self.attention_gate = RowLinear(dim, dim)
        self.widen = RowLinear(dim, 2 * config.hidden, bias=False)
        self.narrow = RowLinear(config.hidden, dim, bias=False)
        self.feed_forward_gate = RowLinear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, hidden_ND: Tensor, places: Padded | Packed, mask: Tensor | TimedMask, dropout: Dropout) -> Tensor:
        """`mask`: as `TransformerBlock`'s."""
        projected_NX = self.project(self.attention_norm(hidden_ND))
        attended_ND = self.merge(places.attend(projected_NX, mask, self.causal, dropout, self.heads))
        hidden_ND = hidden_ND + self.attention_gate(hidden_ND).sigmoid() * dropout(attended_ND)
        gate_NX, value_NX = self.widen(self.feed_forward_norm(hidden_ND)).chunk(2, dim=1)
        narrowed_ND = self.narrow(dropout(nn.functional.silu(gate_NX) * value_NX))
        return hidden_ND + self.feed_forward_gate(hidden_ND).sigmoid() * dropout(narrowed_ND)
