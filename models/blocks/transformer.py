"""The block of SASRec and BERT4Rec, normalized after each sub-layer (the paper) or before it.

Kang & McAuley, arXiv 1808.09781; Sun et al., arXiv 1904.06690; Seshadri & Knees, arXiv 2309.11623, section 3.
Shape legend: B sessions, T positions, N positions of the list, D width, H heads.
"""

from torch import Tensor, nn

from skipwise.models.config import EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.packed import Packed, Padded
from skipwise.models.recurring_products import RowLinear
from skipwise.models.time_bias import TimedMask


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward, each with dropout, a residual and a layer norm."""

    def __init__(self, config: EncoderConfig, dim: int, number: int):
        """`number`: the block's place in the stack, from 0."""
        super().__init__()
        self.heads, self.norm_first = config.heads, config.norm_first
        self.causal = config.direction == "unidirectional"
        self.project = RowLinear(dim, 3 * dim)
        self.merge = RowLinear(dim, dim)
        self.widen = RowLinear(dim, config.hidden)
        self.narrow = RowLinear(config.hidden, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, hidden_ND: Tensor, places: Padded | Packed, mask: Tensor | TimedMask, dropout: Dropout) -> Tensor:
        """`mask` is added to the attention scores: -inf where the row may not look, elsewhere 0 or a bias.

        [H or 1, T, T] for `Packed` positions, which hide padding themselves, or with a bias of each session beside it;
        [B, H or 1, T, T] for `Padded` ones.
        """

        def attention(values_ND: Tensor) -> Tensor:
            projected_NX = self.project(values_ND)
            return dropout(self.merge(places.attend(projected_NX, mask, self.causal, dropout, self.heads)))

        def feed_forward(values_ND: Tensor) -> Tensor:
            return dropout(self.narrow(dropout(self.widen(values_ND).relu())))

        if self.norm_first:
            hidden_ND = hidden_ND + attention(self.attention_norm(hidden_ND))
            return hidden_ND + feed_forward(self.feed_forward_norm(hidden_ND))
        hidden_ND = self.attention_norm(hidden_ND + attention(hidden_ND))
        return self.feed_forward_norm(hidden_ND + feed_forward(hidden_ND))
