"""What a keep head gives at a position: r and b, so that r . f + b is the logit of P(kept) of a track with columns f.

Whether a track is kept depends more on the listener's state, which the last outcomes show, than on the tracks heard:
r and b are the sum of a linear map of the encoder's output and one of a recurrent state that reads signals alone.
Shape legend: B sessions, T positions, N positions that are read, D width, F columns of the keep head.
"""

import math

import torch
from torch import Tensor, nn

from skipwise.models.config import STATE
from skipwise.models.dropout import Dropout
from skipwise.models.recurrence import Recurrence
from skipwise.models.recurring_products import RowLinear


class KeepHead(nn.Module):
    """r and b of each position."""

    def __init__(self, dim: int, keep_dim: int, reads_signals: bool, dropout: float, keep_dropout: float):
        """`reads_signals`: whether there is a state; `dropout`: of what it reads and gives; `keep_dropout`: of the
        encoder's output and of the tracks' columns."""
        super().__init__()
        self.of_output = RowLinear(dim, keep_dim + 1)
        self.state = Recurrence(dim, STATE) if reads_signals else None
        self.of_state = RowLinear(STATE, keep_dim + 1, bias=False) if reads_signals else None
        self.dropout, self.keep_dropout = Dropout(dropout), Dropout(keep_dropout)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """The state's weights are uniform in plus and minus 1 / sqrt(its width), as PyTorch has them."""
        for parameter in self.state.parameters() if self.state is not None else ():
            nn.init.uniform_(parameter, -1 / math.sqrt(STATE), 1 / math.sqrt(STATE), generator=generator)

    def forward(self, output_ND: Tensor, states_NH: Tensor | None) -> Tensor:
        """[N, F + 1]; `states_NH`: of `states`."""
        if self.training:
            widest = max(output_ND.shape[1], self.of_output.out_features)
            self.keep_dropout.renew(len(output_ND) * widest, output_ND.device)
        outputs_NK: Tensor = self.of_output(self.keep_dropout(output_ND))
        if self.of_state is not None and states_NH is not None:
            outputs_NK = outputs_NK + self.of_state(self.dropout(states_NH))
        return outputs_NK

    def states(self, signals_BTD: Tensor) -> Tensor:
        """[B, T, STATE] of the sums of each play's signals, in full precision: a position's has read those up to it."""
        assert self.state is not None
        if self.training:
            most = signals_BTD.shape[0] * signals_BTD.shape[1] * max(signals_BTD.shape[2], STATE)
            self.dropout.renew(most, signals_BTD.device)
        with torch.autocast(signals_BTD.device.type, enabled=False):
            return self.state.states(self.dropout(signals_BTD.float()))
