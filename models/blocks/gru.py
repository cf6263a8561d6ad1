"""GRU4Rec's layer: a gated recurrent network over a session.

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, arXiv 1511.06939.
Shape legend: B sessions, T positions, N positions of the list, D width, H hidden width.
"""

import math

import torch
from torch import Tensor, nn

from skipwise.models.config import EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.packed import Packed, Padded
from skipwise.models.recurring_products import RowLinear
from skipwise.models.time_bias import TimedMask


class GruBlock(nn.Module):
    """A layer of the network, and a linear map of its states back to the width of the rows."""

    def __init__(self, config: EncoderConfig, dim: int, number: int):
        """`number`: the block's place in the stack, from 0."""
        super().__init__()
        self.state = nn.GRU(dim, config.hidden, batch_first=True)
        self.merge = RowLinear(config.hidden, dim)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """The network's weights are uniform in plus and minus 1 / sqrt(H), as PyTorch has them."""
        bound = 1 / math.sqrt(self.state.hidden_size)
        for parameter in self.state.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, hidden_ND: Tensor, places: Padded | Packed, mask: Tensor | TimedMask, dropout: Dropout) -> Tensor:
        """`mask` is not read: a state has seen what precedes it."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            states_BTH: Tensor = self.state(places.spread(hidden_ND.float()))[0]
        merged_ND: Tensor = self.merge(dropout(places.collect(states_BTH)))
        return merged_ND
