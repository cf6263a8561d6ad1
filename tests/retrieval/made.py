"""Exports written by hand, with an encoder whose answer numpy can give too: the mean of a session's rows."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from skipwise.retrieval.export_manifest import ExportManifest

LONGEST = 6


class Mean(nn.Module):
    """The mean of each session's rows; zero for none."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return items_BTD.sum(dim=1) / lengths_B.clamp(min=1)[:, None]


def program(dim: int) -> bytes:
    """As `export` saves one."""
    shapes = torch.export.Dim("sessions", min=1), torch.export.Dim("tracks", min=1, max=LONGEST)
    example = torch.zeros(3, LONGEST, dim), torch.ones(3, dtype=torch.int64)
    dynamic = {"items_BTD": dict(enumerate(shapes)), "lengths_B": {0: shapes[0]}}
    whole = io.BytesIO()
    torch.export.save(torch.export.export(Mean(), example, dynamic_shapes=dynamic), whole)
    return whole.getvalue()


def record(folder: Path, name: str) -> dict:
    """`file`, `bytes` and `sha256`."""
    content = (folder / name).read_bytes()
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_made(folder: Path, ids: list[str], rows_RD: np.ndarray, encoder: bytes, parts: int = 1, **data) -> Path:
    """A float32 Parquet export; `data`: settings of the run's data."""
    (folder / "embeddings").mkdir(parents=True)
    dim, records = rows_RD.shape[1], []
    for number, chosen in enumerate(np.array_split(np.arange(len(ids)), parts)):
        name = f"embeddings/part-{number:05}.parquet"
        flat = pa.array(rows_RD[chosen].astype(np.float32).ravel())
        columns = {
            "track_id": pa.array([ids[row] for row in chosen], pa.string()),
            "row": pa.array(chosen, pa.int32()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
        }
        pq.write_table(pa.table(columns), folder / name)
        records.append({"first_row": int(chosen[0]), "rows": len(chosen)} | record(folder, name))
    (folder / "encoder.pt2").write_bytes(encoder)
    np.save(folder / "queries.npy", rows_RD[:5].astype(np.float32))
    ExportManifest(
        rows=len(ids),
        dim=dim,
        format="parquet",
        dtype="float32",
        vocabulary_hash="",
        parts=records,
        tracks=[],
        encoder=record(folder, "encoder.pt2") | {"max_tracks": LONGEST},
        onnx={},
        queries=record(folder, "queries.npy") | {"rows": min(5, len(ids))},
        index={},
        since={},
        compared={},
        recipe="best",
        config={"data": data},
        trained={},
        versions={},
    ).write(folder)
    return folder


def change(folder: Path, **fields) -> None:
    """Rewrites fields of the manifest."""
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
