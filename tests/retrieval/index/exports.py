"""Exports written by hand, file by file as their manifest says, so that tests of the index need no trained run."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from skipwise.retrieval.export_manifest import ExportManifest

DIM = 16


class SumEncoder(nn.Module):
    """A session's query is the sum of its tracks: exact, where those are whole numbers."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return items_BTD.sum(dim=1) * (lengths_B > 0)[:, None]


def program(file: Path) -> Path:
    """`SumEncoder` as an export has it, for any number of sessions of any length."""
    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    example = torch.randn(2, 3, DIM), torch.tensor([3, 2])
    torch.export.save(torch.export.export(SumEncoder(), example, dynamic_shapes=(sizes, {0: sizes[0]})), file)
    return file


def write_by_hand(
    folder: Path, table_RD: np.ndarray, queries_SD: np.ndarray, program: Path, max_tracks: int = 20, **data
) -> Path:
    """An export of `table_RD` in two parts; `data` goes into its run's config."""
    folder.mkdir()
    rows, dim = table_RD.shape
    ids = [f"t_{row:05}" for row in range(rows)]
    parts = []
    for number, chosen in enumerate(np.array_split(np.arange(rows), 2)):
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(table_RD[chosen].ravel()), dim)
        columns = {
            "track_id": pa.array([ids[row] for row in chosen], pa.string()),
            "row": pa.array(chosen, pa.int32()),
            "embedding": embeddings,
        }
        pq.write_table(pa.table(columns), folder / f"part-{number}.parquet")
        place = {"first_row": int(chosen[0]) if len(chosen) else rows, "rows": len(chosen)}
        parts.append(place | _record(folder / f"part-{number}.parquet"))
    np.save(folder / "queries.npy", queries_SD)
    (folder / "encoder.pt2").write_bytes(program.read_bytes())
    ExportManifest(
        rows=rows,
        dim=dim,
        dtype="float32",
        format="parquet",
        vocabulary_hash=hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest(),
        parts=parts,
        tracks=[],
        queries=_record(folder / "queries.npy") | {"rows": len(queries_SD)},
        encoder=_record(folder / "encoder.pt2") | {"max_tracks": max_tracks},
        compared={},
        onnx={},
        index={},
        since={},
        recipe="best",
        config={"data": {"skipped_tracks": "read"} | data},
        trained={},
        versions={},
    ).write(folder)
    return folder


def change_index(folder: Path, **changes) -> None:
    """Changes fields of the manifest's entry; None removes one."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["index"] = {name: of for name, of in (manifest["index"] | changes).items() if of is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def norms_matter(rows: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A table whose norms differ by a factor of up to ten, so that the best by cosine are others, and queries."""
    random = np.random.default_rng(seed)
    table_RD = random.standard_normal((rows, DIM), dtype=np.float32)
    table_RD *= np.exp(random.uniform(-1.15, 1.15, (rows, 1))).astype(np.float32)
    return table_RD, random.standard_normal((queries, DIM), dtype=np.float32)


def _record(file: Path) -> dict[str, str | int]:
    content = file.read_bytes()
    return {"file": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
