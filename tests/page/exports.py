"""Small exports made by hand, whose answers need no training."""

import dataclasses
import functools
import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.training.checkpoint.checkpoint_index import FileRecord

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
    (folder / "embeddings").mkdir(parents=True)
    rows_RD = np.random.default_rng(seed).normal(size=(len(ids), DIM)).astype(np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows_RD.reshape(-1)), DIM)
    numbers = pa.array(range(len(ids)), pa.int32())
    part = pa.table({"track_id": pa.array(ids), "row": numbers, "embedding": embedding})
    pq.write_table(part, folder / "embeddings/part-00000.parquet")
    np.save(folder / "queries.npy", rows_RD[:4])
    (folder / "encoder.pt2").write_bytes(_program())

    def record(file: str) -> dict:
        return dataclasses.asdict(FileRecord.of(folder, file))

    ExportManifest(
        rows=len(ids),
        dim=DIM,
        dtype="float32",
        format="parquet",
        vocabulary_hash=hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest(),
        parts=[record("embeddings/part-00000.parquet") | {"first_row": 0, "rows": len(ids)}],
        tracks=[],
        queries=record("queries.npy") | {"rows": 4},
        encoder=record("encoder.pt2") | {"max_tracks": LONGEST, "max_length": LONGEST},
        compared={},
        recipe="best" if alpha else "best-skip-blind",
        config={"data": {"skipped_tracks": skipped_tracks}, "loss": {"context": "track", "alpha": alpha}},
        trained={},
        versions={},
        onnx={},
        index={},
        since={},
    ).write(folder)
    return folder


@functools.cache
def _program() -> bytes:
    sessions, tracks = torch.export.Dim("sessions", min=1), torch.export.Dim("tracks", min=1, max=LONGEST)
    shapes = {"items_BTD": {0: sessions, 1: tracks}, "lengths_B": {0: sessions}}
    example = torch.zeros(3, LONGEST, DIM), torch.full((3,), LONGEST)
    whole = io.BytesIO()
    torch.export.save(torch.export.export(LastAndMean(), example, dynamic_shapes=shapes), whole)
    return whole.getvalue()
