"""Exports written by hand, file by file as their manifest says, and encoders that NumPy can compute too."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from skipwise.datapipes.signals import Signals
from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import EncoderShape
from skipwise.retrieval.export.encoder_program import input_contract, write_weights
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.skip_entries import SignalEntry

LONGEST = 6
"""Tracks that the encoder of `write_made` reads at most."""


class Mean(nn.Module):
    """The mean of each session's rows; zero for none."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return items_BTD.sum(dim=1) / lengths_B.clamp(min=1)[:, None]


def small_encoder(
    dim: int,
    longest: int = LONGEST,
    direction: Any = "unidirectional",
    keep_dim: int = 0,
    reads_signals: bool = False,
) -> Encoder:
    """Of random weights that are large enough for the order of tracks to matter."""
    length = longest + (direction == "bidirectional")
    config = EncoderConfig(direction, max_length=length, blocks=1, heads=2, hidden=8)
    encoder = Encoder(config, dim, keep_dim, reads_signals).eval()
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" not in name and "keep.state" not in name:
                parameter.mul_(25)
    return encoder


@contextmanager
def stands_for_the_encoder(module: nn.Module) -> Iterator[None]:
    """Exports that are opened in this block have `module` as their encoder, whatever weights they hold."""
    with patch("skipwise.retrieval.open_export.load_query_encoder", lambda *_: module):
        yield


def record(folder: Path, name: str) -> dict[str, Any]:
    """`file`, `bytes` and `sha256`."""
    content = (folder / name).read_bytes()
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_made(
    folder: Path,
    ids: list[str],
    rows_RD: np.ndarray,
    parts: int = 1,
    longest: int = LONGEST,
    direction: Any = "unidirectional",
    queries_SD: np.ndarray | None = None,
    fields: dict[str, Any] | None = None,
    keep: dict[str, Any] | None = None,
    signals_MD: np.ndarray | None = None,
    names: dict[str, list[str | None]] | None = None,
    **data: Any,
) -> Path:
    """A float32 Parquet export with a `small_encoder`, which has no program.

    `queries_SD`: else the first five rows; `fields`: of the manifest; `keep`: its entry of a keep head, whose columns
    are the last ones of `rows_RD`; `signals_MD`: the rows of what is read of skips; `names`: by column, what the
    tracks are called; `data`: settings of the run's data.
    """
    (folder / "embeddings").mkdir(parents=True)
    rows_RD, dim, records = rows_RD.astype(np.float32), rows_RD.shape[1], []
    queries_SD = rows_RD[:5] if queries_SD is None else queries_SD
    for number, chosen in enumerate(np.array_split(np.arange(len(ids)), parts)):
        name = f"embeddings/part-{number:05}.parquet"
        columns = {
            "track_id": pa.array([ids[row] for row in chosen], pa.string()),
            "row": pa.array(chosen, pa.int32()),
            **{name: pa.array([of[row] for row in chosen], pa.string()) for name, of in (names or {}).items()},
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows_RD[chosen].ravel()), dim),
        }
        pq.write_table(pa.table(columns), folder / name)
        first = int(chosen[0]) if len(chosen) else len(ids)
        records.append({"first_row": first, "rows": len(chosen)} | record(folder, name))
    keep_dim = keep["dim"] if keep else 0
    signals = Signals.of(() if signals_MD is None else ("skips",))
    shape = EncoderShape(dim - keep_dim, keep_dim, signals.num_rows, len(signals.columns))
    encoder = small_encoder(shape.dim, longest, direction, keep_dim, shape.num_signals > 0)
    table_MD = None if signals_MD is None else torch.from_numpy(signals_MD.astype(np.float32))
    write_weights(folder / "encoder.safetensors", encoder, table_MD)
    (folder / "encoder.pt2").write_bytes(b"a program for others")
    np.save(folder / "queries.npy", queries_SD)
    manifest: dict[str, Any] = {
        "rows": len(ids),
        "dim": dim,
        "format": "parquet",
        "dtype": "float32",
        "vocabulary_hash": hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest(),
        "parts": records,
        "tracks": [],
        "names": [*(names or {})],
        "encoder": record(folder, "encoder.pt2") | input_contract(encoder.config, shape),
        "weights": record(folder, "encoder.safetensors") | {"config": asdict(encoder.config)},
        "keep": keep or {},
        "signals": [SignalEntry.of(column).model_dump() for column in signals.columns],
        "onnx": {},
        "queries": record(folder, "queries.npy") | {"rows": len(queries_SD)},
        "index": {},
        "since": {},
        "compared": {},
        "recipe": "best",
        "config": {
            "data": {"skip_up_to": 2, "skipped_tracks": "read", "inputs": [one.name for one in signals.columns]} | data
        },
        "trained": {},
        "versions": {},
    }
    ExportManifest(**manifest | (fields or {})).write(folder)
    return folder


def change(folder: Path, **fields: Any) -> None:
    """Rewrites fields of the manifest."""
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
