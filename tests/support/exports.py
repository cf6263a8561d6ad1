"""Exports written by hand, file by file as their manifest says, with an encoder that NumPy can compute too."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from skipwise.models.config import EncoderConfig
from skipwise.retrieval.export.encoder_program import input_contract
from skipwise.retrieval.export_manifest import ExportManifest

LONGEST = 6
"""Tracks that the encoder of `program` reads at most."""


class Mean(nn.Module):
    """The mean of each session's rows; zero for none."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return items_BTD.sum(dim=1) / lengths_B.clamp(min=1)[:, None]


def program(dim: int, encoder: nn.Module | None = None, longest: int = LONGEST) -> bytes:
    """`encoder` (else `Mean`) as `export` saves one."""
    shapes = torch.export.Dim("sessions", min=1), torch.export.Dim("tracks", min=1, max=longest)
    example = torch.zeros(3, longest, dim), torch.ones(3, dtype=torch.int64)
    dynamic = {"items_BTD": dict(enumerate(shapes)), "lengths_B": {0: shapes[0]}}
    whole = io.BytesIO()
    torch.export.save(torch.export.export(encoder or Mean(), example, dynamic_shapes=dynamic), whole)
    return whole.getvalue()


def record(folder: Path, name: str) -> dict[str, Any]:
    """`file`, `bytes` and `sha256`."""
    content = (folder / name).read_bytes()
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_made(
    folder: Path,
    ids: list[str],
    rows_RD: np.ndarray,
    encoder: bytes,
    parts: int = 1,
    longest: int = LONGEST,
    queries_SD: np.ndarray | None = None,
    fields: dict[str, Any] | None = None,
    **data: Any,
) -> Path:
    """A float32 Parquet export, as older versions wrote it: its encoder is a program alone.

    `queries_SD`: else the first five rows; `fields`: of the manifest; `data`: settings of the run's data.
    """
    (folder / "embeddings").mkdir(parents=True)
    rows_RD, dim, records = rows_RD.astype(np.float32), rows_RD.shape[1], []
    queries_SD = rows_RD[:5] if queries_SD is None else queries_SD
    for number, chosen in enumerate(np.array_split(np.arange(len(ids)), parts)):
        name = f"embeddings/part-{number:05}.parquet"
        columns = {
            "track_id": pa.array([ids[row] for row in chosen], pa.string()),
            "row": pa.array(chosen, pa.int32()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows_RD[chosen].ravel()), dim),
        }
        pq.write_table(pa.table(columns), folder / name)
        first = int(chosen[0]) if len(chosen) else len(ids)
        records.append({"first_row": first, "rows": len(chosen)} | record(folder, name))
    (folder / "encoder.pt2").write_bytes(encoder)
    np.save(folder / "queries.npy", queries_SD)
    manifest: dict[str, Any] = {
        "rows": len(ids),
        "dim": dim,
        "format": "parquet",
        "dtype": "float32",
        "vocabulary_hash": hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest(),
        "parts": records,
        "tracks": [],
        "encoder": record(folder, "encoder.pt2") | input_contract(EncoderConfig(max_length=longest), dim),
        "onnx": {},
        "queries": record(folder, "queries.npy") | {"rows": len(queries_SD)},
        "index": {},
        "since": {},
        "compared": {},
        "recipe": "best",
        "config": {"data": {"skip_up_to": 2, "skipped_tracks": "read"} | data},
        "trained": {},
        "versions": {},
    }
    ExportManifest(**manifest | (fields or {})).write(folder)
    return folder


def change(folder: Path, **fields: Any) -> None:
    """Rewrites fields of the manifest."""
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
