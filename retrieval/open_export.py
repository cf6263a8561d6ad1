"""An export, opened for use: nothing is read from it that is not what its manifest vouches for.

Shape legend: R rows of a part, D width, S queries.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from skipwise.common.errors import UserError, brief
from skipwise.datapipes.session_files import DAMAGED
from skipwise.datapipes.view import View
from skipwise.retrieval.encodings import SCALE_BIAS_BYTES
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.program import load_program
from skipwise.retrieval.track_ids import TrackIds
from skipwise.retrieval.vectors import Piece, Vectors
from skipwise.training.checkpoint.checkpoint_index import FileRecord, StorageError, check_file
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import from_mapping

_MENDING = "export again"


@dataclass(frozen=True)
class OpenExport:
    """What serving needs: ids and embeddings of the whole table, and the encoder."""

    path: Path
    manifest: ExportManifest
    tracks: TrackIds
    vectors: Vectors
    program: nn.Module
    """(items [B, T, D], lengths [B]) -> queries [B, D]: `manifest.encoder` has the contract."""
    view: View
    """What the model reads of a session: its last tracks, which plays count as skipped, and whether those are read."""

    @classmethod
    def open(cls, path: Path) -> "OpenExport":
        """Raises `UserError` for a file that is missing or not what was exported, and for an export of changes alone.

        Reads every file once for its hash.
        """
        manifest = ExportManifest.read(path)
        if manifest.since:
            raise UserError(
                f"{path} holds only the rows that changed since {manifest.since.get('run')}: give an export of the "
                "whole table, made without --only-new-since"
            )
        for record in [*manifest.parts, *manifest.tracks, manifest.queries, manifest.encoder]:
            check(path, record)
        data = from_mapping(RunConfig(), manifest.config, f"{path}, config of its manifest").data
        try:
            ids, pieces = _read(path, manifest)
            tracks = TrackIds(ids)
            view = View(manifest.encoder["max_tracks"], data.skip_up_to, data.skipped_tracks == "filter")
        except (*DAMAGED, RuntimeError) as error:
            raise UserError(f"{path} cannot be opened ({brief(error)}): {_MENDING}") from error
        program = load_program(path / manifest.encoder["file"], view.length, manifest.dim)
        return cls(Path(path), manifest, tracks, Vectors(pieces), program, view)

    def queries(self) -> Tensor:
        """float32 [S, D]: queries of sessions that the encoder was compared on, by which an index is tuned."""
        return torch.from_numpy(np.load(self.path / self.manifest.queries["file"]))


def check(path: Path, record: dict[str, Any]) -> None:
    """Raises `UserError` unless the file is the one that the manifest lists."""
    try:
        check_file(path, FileRecord(record["file"], record["bytes"], record["sha256"]))
    except StorageError as error:
        raise UserError(f"{error}: copy the export again, or {_MENDING}") from error


def _read(path: Path, manifest: ExportManifest) -> tuple[pa.Array, list[Piece]]:
    """Ids in row order, and the embeddings: Parquet's in memory, npy's mapped from the disk."""
    if manifest.format == "parquet":
        return _read_parquet(path, manifest)
    ids = pa.chunked_array([_ids(path / record["file"], record["first_row"]) for record in manifest.tracks])
    if len(ids) != manifest.rows:
        raise ValueError(f"its files hold the ids of {len(ids)} tracks, not {manifest.rows}")
    reader = {"npy": _mapped, "faiss": _from_faiss}[manifest.format]
    fused, kind, width = _layout(manifest)
    pieces = []
    for record in manifest.parts:
        values = reader(path / record["file"])
        wanted = record["rows"], width
        if values.shape != wanted or values.dtype != kind:
            raise ValueError(f"{record['file']} holds {values.dtype} {values.shape}, not {kind} {wanted}")
        if record["rows"]:
            pieces.append(Piece(record["first_row"], values, fused))
    return ids.combine_chunks(), pieces


def _layout(manifest: ExportManifest) -> tuple[bool, np.dtype, int]:
    """Whether rows bring their scale and bias along, the type of their numbers, and how many there are."""
    fused = manifest.dtype == "int8"
    return fused, np.dtype(np.uint8 if fused else manifest.dtype), manifest.dim + SCALE_BIAS_BYTES * fused


def _read_parquet(path: Path, manifest: ExportManifest) -> tuple[pa.Array, list[Piece]]:
    fused, kind, width = _layout(manifest)
    table_RD = np.empty((manifest.rows, width), dtype=kind)
    ids, row = [], 0
    for record in manifest.parts:
        with pq.ParquetFile(path / record["file"]) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                block = parquet.read_row_group(group)
                if not np.array_equal(block["row"].to_numpy(), np.arange(row, row + len(block))):
                    raise ValueError(f"{record['file']} is not in row order near row {row}")
                target = table_RD[row : row + len(block)]
                values = block["embedding"].combine_chunks().flatten().to_numpy()
                target[:, : manifest.dim] = values.reshape(-1, manifest.dim)
                if fused:
                    scale_bias = np.stack([block[name].to_numpy() for name in ("scale", "bias")], axis=1)
                    target[:, manifest.dim :] = np.ascontiguousarray(scale_bias, dtype="<f4").view(np.uint8)
                ids.append(block["track_id"].combine_chunks())
                row += len(block)
    if row != manifest.rows:
        raise ValueError(f"its parts hold {row} rows, not {manifest.rows}")
    return pa.concat_arrays(ids), [Piece(0, table_RD, fused)]


def _ids(file: Path, first: int) -> pa.Array:
    table = pq.read_table(file)
    if not np.array_equal(table["row"].to_numpy(), np.arange(first, first + len(table))):
        raise ValueError(f"{file.name} is not in row order from row {first} on")
    return table["track_id"].combine_chunks()


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r")


def _from_faiss(file: Path) -> np.ndarray:
    """The vectors of a flat or 16-bit index, which lie in it one after the other."""
    from skipwise.common.versions import import_faiss

    faiss = import_faiss()
    index = faiss.read_index(str(file))
    if not isinstance(index, (faiss.IndexFlat, faiss.IndexScalarQuantizer)):
        raise ValueError(f"{file.name} is a {type(index).__name__}, not a flat or 16-bit index")
    codes = faiss.vector_to_array(index.codes).reshape(index.ntotal, index.code_size)
    return codes.view(np.float16 if isinstance(index, faiss.IndexScalarQuantizer) else np.float32)
