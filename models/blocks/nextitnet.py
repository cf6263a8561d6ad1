"""NextItNet's block: two causal dilated convolutions over a session.

Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019, arXiv 1808.05163.
Shape legend: B sessions, T positions, N positions of the list, D width.
"""

import math

from torch import Tensor, nn

from skipwise.models.config import KERNEL, EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.packed import Packed, Padded
from skipwise.models.time_bias import TimedMask


class NextItNetBlock(nn.Module):
    """x + f(f(x)), where f is a convolution, a norm and a ReLU.

    The convolutions of block i read tracks 4^i and 2 * 4^i positions apart, and begin anew at 1 where that would
    exceed the longest session.
    """

    def __init__(self, config: EncoderConfig, dim: int, number: int):
        """`number`: the block's place in the stack, from 0."""
        super().__init__()
        turns = max(math.ceil(math.log(config.max_length, 4)), 1)
        self.dilations = [4 ** (number % turns), 2 * 4 ** (number % turns)]
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, dim, KERNEL, dilation=dilation) for dilation in self.dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.dilations)

    def forward(self, hidden_ND: Tensor, places: Padded | Packed, mask: Tensor | TimedMask, dropout: Dropout) -> Tensor:
        """`mask` is not read: a convolution reads what precedes its position."""
        values_ND = hidden_ND
        for dilation, convolution, norm in zip(self.dilations, self.convolutions, self.norms, strict=True):
            values_BDT = places.spread(values_ND).transpose(1, 2)
            values_BDT = convolution(nn.functional.pad(values_BDT, ((KERNEL - 1) * dilation, 0)))
            values_ND = norm(places.collect(values_BDT.transpose(1, 2))).relu()
        return hidden_ND + dropout(values_ND)
