"""Small exports made by hand, whose answers need no training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipwise.retrieval.word_index import write_words
from tests.support.exports import change, record, write_made

DIM, LONGEST, KEEP = 8, 12, 4
CURVE = [
    {"dial": 0.0, "hr_at_10": 0.7, "kept_hr_at_10": 0.71, "skipped_hr_at_10": 0.69, "pairs_in_order": 0.4},
    {"dial": 0.5, "hr_at_10": 0.698, "kept_hr_at_10": 0.712, "skipped_hr_at_10": 0.68, "pairs_in_order": 0.44},
    {"dial": 2.0, "hr_at_10": 0.65, "kept_hr_at_10": 0.68, "skipped_hr_at_10": 0.62, "pairs_in_order": 0.5},
]
"""What was measured at each setting of the dial, but for the expected skips."""


class LastAndMean(nn.Module):
    """The query is the session's mean and its last track together: order matters, and so does every track."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Queries [B, D] of items [B, T, D], padded on the right with zeros."""
        last_B = (lengths_B - 1).clamp(min=0)
        last_BD = items_BTD[torch.arange(items_BTD.shape[0]), last_B]
        return last_BD + items_BTD.sum(1) / lengths_B.clamp(min=1)[:, None]


def write_export(
    folder: Path,
    ids: list[str],
    seed: int,
    alpha: float,
    skipped_tracks: str = "read",
    names: dict[str, list[str | None]] | None = None,
) -> Path:
    """An export of random embeddings for `ids`, with the manifest of a run whose skip loss weighs `alpha`."""
    rows_RD = np.random.default_rng(seed).normal(size=(len(ids), DIM)).astype(np.float32)
    data = {"skip_up_to": 2, "skipped_tracks": skipped_tracks}
    fields = {
        "recipe": "best" if alpha else "best-skip-blind",
        "config": {"data": data, "loss": {"context": "track", "alpha": alpha}},
    }
    return write_made(folder, ids, rows_RD, longest=LONGEST, queries_SD=rows_RD[:4], fields=fields, names=names)


def write_named(folder: Path, ids: list[str], titles: list[str | None]) -> Path:
    """An export of tracks with these titles, all of one artist, and the index of their words."""
    names: dict[str, list[str | None]] = {"title": titles, "artist": ["Nobody"] * len(ids)}
    write_export(folder, ids, seed=4, alpha=0.25, names=names)
    count = write_words(folder / "words.sqlite", ((row, f"{title or ''} Nobody") for row, title in enumerate(titles)))
    change(folder, words=record(folder, "words.sqlite") | {"rows": count})
    return folder


def write_dialled(folder: Path, ids: list[str], usual: float, **more: Any) -> Path:
    """An export with a keep head whose encoder reads skips; `usual`: the skips it expects on average; `more`: as
    `write_made` takes it.
    """
    random = np.random.default_rng(3)
    curve = [point | {"skip_rate": usual} for point in CURVE]
    return write_made(
        folder,
        ids,
        random.normal(size=(len(ids), DIM + KEEP)).astype(np.float32),
        longest=LONGEST,
        keep={"dim": KEEP, "dial": 0.5, "curve": curve, "targets": 5012, "split": "validation"},
        signals_MD=random.normal(size=(5, DIM)),
        **more,
    )
