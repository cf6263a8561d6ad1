"""The encoder as it is served: track rows of sessions in, one query per session out.

Imports neither TorchRec nor FBGEMM, so that a server rebuilds it from weights and an `EncoderConfig`.
Shape legend: B sessions, T tracks, D width.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder


class QueryEncoder(nn.Module):
    """An encoder in evaluation mode, on the CPU, read at the position that predicts the next track."""

    def __init__(self, encoder: Encoder):
        """Copies `encoder`."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder).cpu().eval().requires_grad_(False)
        self.appended = encoder.config.appended_positions
        self.max_tracks = encoder.config.max_tracks

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Queries [B, D] at each session's last position, which for a bidirectional encoder is the mask token."""
        items_BTD = nn.functional.pad(items_BTD, (0, 0, 0, self.appended))
        place_T = torch.arange(items_BTD.shape[1], device=items_BTD.device)
        return self.encoder.queries(items_BTD, lengths_B + self.appended, place_T == lengths_B[:, None])


def load_query_encoder(config: EncoderConfig, dim: int, state: Mapping[str, Tensor]) -> QueryEncoder:
    """Rebuilds the encoder from its config, the width of the track rows, and `Encoder.state_dict()`.

    Raises `RuntimeError` where the names or shapes in `state` are not those of `config` and `dim`.
    """
    with torch.device("meta"):
        encoder = Encoder(config, dim)
    encoder.load_state_dict(state, assign=True)
    return QueryEncoder(encoder)
