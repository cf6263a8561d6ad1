"""What the listener kept in earlier sessions: one token before a session's tracks, and a part of what it predicts.

The rows of a profile are looked up with all others of the batch, each distinct one once, and pooled here: so features
of tracks, every sharding and half precision act on them as on any row.

The token says what kind of tracks a listener likes. That a track comes back is said by a sum of its own rows, which is
added to the prediction: a track's score grows by the inner products with what was kept, most with itself, once for
each time that it was. It is a score of count and recency (cf. Abbattista et al., RecSys 2024, arXiv 2409.04329) that
stays an inner product with one vector a session, so that every ranking, index and export serves it as it is.
Shape legend: B sessions, K tracks of a profile, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class ReadProfile(NamedTuple):
    """What the encoder reads of the profiles of some sessions."""

    token_BD: Tensor
    repeats_BD: Tensor
    """Added to each prediction of the session."""


class Profile(nn.Module):
    """Two sums of rows with a learned weight for each place, the last tracks first.

    A track that was kept several times counts as often. The token of an empty profile is a learned one.
    """

    def __init__(self, dim: int, most: int):
        """`most`: K."""
        super().__init__()
        self.recency = nn.Parameter(torch.empty(most))
        self.projection = nn.Linear(dim, dim)
        self.repeats = nn.Parameter(torch.empty(most))

    def reset_parameters(self) -> None:
        """The plain mean as the token, and nothing added to predictions."""
        for parameter in (self.recency, self.repeats, self.projection.bias):
            nn.init.zeros_(parameter)
        nn.init.eye_(self.projection.weight)

    def forward(self, rows_BKD: Tensor, real_BK: Tensor) -> ReadProfile:
        """`real_BK`: bool, which places hold a track, the first ones of each profile."""
        width = real_BK.shape[1]
        weights_BK = self.recency[:width].exp() * real_BK
        weights_BK = weights_BK / weights_BK.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        both_B2K = torch.stack([weights_BK, self.repeats[:width] * real_BK], dim=1)
        mean_BD, repeats_BD = torch.bmm(both_B2K.to(rows_BKD.dtype), rows_BKD).unbind(1)
        return ReadProfile(self.projection(mean_BD), repeats_BD)
