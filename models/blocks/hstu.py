"""HSTU's block: attention without a softmax, and a gate in place of a feed-forward layer.

Zhai et al., "Actions Speak Louder than Words", ICML 2024, arXiv 2402.17152.
Shape legend: N positions of the list, D width, H heads, T positions.
"""

from torch import Tensor, nn

from skipwise.models.config import EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.packed import Packed, Padded
from skipwise.models.recurring_products import RowLinear
from skipwise.models.time_bias import TimedMask


class HstuBlock(nn.Module):
    """x + W (u * norm(a)): u, and the queries, keys and values of a, are SiLUs of linear maps of norm(x).

    A key's weight is the SiLU of its score and bias over the longest session's length, and does not depend on the
    other keys, so that a sum over tracks says how many there were.
    """

    def __init__(self, config: EncoderConfig, dim: int, number: int):
        """`number`: the block's place in the stack, from 0."""
        super().__init__()
        self.heads, self.causal = config.heads, config.direction == "unidirectional"
        self.weight = 1 / config.max_length
        self.project = RowLinear(dim, 3 * dim)
        self.gate = RowLinear(dim, dim)
        self.merge = RowLinear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.attended_norm = nn.LayerNorm(dim, eps=1e-6)  # sums of small weights are small at the start

    def forward(self, hidden_ND: Tensor, places: Padded | Packed, mask: Tensor | TimedMask, dropout: Dropout) -> Tensor:
        """`mask`: as `TransformerBlock`'s."""
        silu, normed_ND = nn.functional.silu, self.norm(hidden_ND)
        projected_NX = silu(self.project(normed_ND))
        attended_ND = places.attend(projected_NX, mask, self.causal, None, self.heads, self.weight)
        gated_ND = silu(self.gate(normed_ND)) * self.attended_norm(attended_ND)
        return hidden_ND + self.merge(dropout(gated_ND))
