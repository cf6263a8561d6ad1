"""Small exports made by hand, whose answers need no training."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.exports import write_made

DIM, LONGEST = 8, 12


class LastAndMean(nn.Module):
    """The query is the session's mean and its last track together: order matters, and so does every track."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Queries [B, D] of items [B, T, D], padded on the right with zeros."""
        last_B = (lengths_B - 1).clamp(min=0)
        last_BD = items_BTD[torch.arange(items_BTD.shape[0]), last_B]
        return last_BD + items_BTD.sum(1) / lengths_B.clamp(min=1)[:, None]


def write_export(folder: Path, ids: list[str], seed: int, alpha: float, skipped_tracks: str = "read") -> Path:
    """An export of random embeddings for `ids`, with the manifest of a run whose skip loss weighs `alpha`."""
    rows_RD = np.random.default_rng(seed).normal(size=(len(ids), DIM)).astype(np.float32)
    data = {"skip_up_to": 2, "skipped_tracks": skipped_tracks}
    fields = {
        "recipe": "best" if alpha else "best-skip-blind",
        "config": {"data": data, "loss": {"context": "track", "alpha": alpha}},
    }
    return write_made(folder, ids, rows_RD, longest=LONGEST, queries_SD=rows_RD[:4], fields=fields)
