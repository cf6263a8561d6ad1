"""An export, opened for use: nothing is read from it that differs from what its manifest says.

All of it is copied into memory, or into files that no other program writes (`shared_rows`). A page that is mapped from
a file is gone where another program cuts the file short, and whoever touches it is killed by SIGBUS.

Shape legend: R rows of a part, D width, S queries, W numbers of an encoded row.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from safetensors.torch import load
from torch import Tensor, nn

from skipwise.common.errors import UserError, brief
from skipwise.common.files import FileRecord
from skipwise.common.mirrors import local
from skipwise.common.schema import StrictModel, validate
from skipwise.common.tables import open_table, read_table
from skipwise.common.versions import import_faiss
from skipwise.datapipes.config import MOST_PROFILE
from skipwise.datapipes.manifest import MANIFEST
from skipwise.datapipes.session_files import DAMAGED
from skipwise.datapipes.signals import SKIPS, SignalColumn, Signals
from skipwise.datapipes.view import View
from skipwise.models.query_encoder import EncoderShape, load_query_encoder
from skipwise.retrieval.export_manifest import ExportManifest, PartEntry, WeightsEntry
from skipwise.retrieval.faiss_files import PART, read_faiss
from skipwise.retrieval.formats import SCALE_BIAS_BYTES
from skipwise.retrieval.shared_rows import in_one_piece, table_name
from skipwise.retrieval.skip_entries import SignalEntry
from skipwise.retrieval.track_ids import TrackIds
from skipwise.retrieval.vectors import BLOCK_ROWS, Piece, Vectors
from skipwise.retrieval.word_index import WordIndex

_AGAIN = "export again"


class _DataSettings(StrictModel, extra="ignore"):
    skip_up_to: Literal[1, 2, 3]
    skipped_tracks: Literal["read", "filter"]
    inputs: list[str] = []
    profile: Annotated[int, Field(ge=0, le=MOST_PROFILE)] = 0


class _RunConfig(StrictModel, extra="ignore"):
    data: _DataSettings


class _Config(StrictModel):
    """What serving reads of the run's config."""

    config: _RunConfig


@dataclass(frozen=True)
class OpenExport:
    """What serving needs: ids, names and embeddings of the whole table, and the encoder."""

    path: Path
    manifest: ExportManifest
    tracks: TrackIds
    vectors: Vectors
    encoder: nn.Module
    """(items [B, T, D], lengths [B], and signals [B, T, C] if it reads any; profiles by name) -> outputs:
    `manifest.encoder` has the contract."""
    view: View
    """What the model reads of a session: its last tracks, which plays count as skipped, and whether those are read."""
    profile: int = 0
    """The most tracks that it reads of what the listener kept in earlier sessions."""

    @classmethod
    def open(cls, path: Path) -> "OpenExport":
        """Raises `UserError` for a file that is missing or not what was exported, for a delta, and for an older
        version's export without the encoder's weights. No file of an export runs code.

        Reads every file that it uses once for its hash.
        """
        path = local(path)
        manifest = ExportManifest.read(path)
        if manifest.since:
            raise UserError(
                f"{path} holds only the rows that changed since {manifest.since.run}: give an export of the "
                "whole table, made without --only-new-since"
            )
        if not manifest.weights:
            raise UserError(
                f"{path} was written by an older version, without the encoder's weights: export the run again "
                "(encoder.pt2 and ONNX are for other programs, as opening such a program can run code)"
            )
        data = validate(_Config, {"config": manifest.config}, path / MANIFEST, _AGAIN).config.data
        for record in [*manifest.parts, *manifest.tracks, manifest.queries, manifest.weights]:
            check_file(path, record)
        try:
            tracks = _tracks(path, manifest)
            pieces = (piece for part in manifest.parts for piece in part_pieces(path, manifest, part))
            vectors = Vectors(in_one_piece(manifest, pieces), table_name(manifest))
        except (*DAMAGED, RuntimeError) as error:
            raise UserError(f"{path} cannot be opened ({brief(error)}): {_AGAIN}") from error
        contexts = {entry.name: entry.values for entry in manifest.signals}
        signals = Signals.of([name for name in data.inputs if name in (SKIPS, *contexts)], contexts)
        same = len(signals.columns) == len(data.inputs)
        if not same or [SignalEntry.of(column) for column in signals.columns] != manifest.signals:
            raise UserError(f"{path / MANIFEST} has other signals than its config's inputs: {_AGAIN}")
        view = View(manifest.encoder.max_tracks, data.skip_up_to, data.skipped_tracks == "filter", signals)
        encoder = _encoder(path, manifest, manifest.weights, signals, data.profile)
        return cls(path, manifest, tracks, vectors, encoder, view, data.profile)

    @cached_property
    def words(self) -> WordIndex | None:
        """The index of words of titles and artists, read when it is first asked for; None without.

        Raises `UserError` where the file is missing or not what was exported.
        """
        if not self.manifest.words:
            return None
        check_file(self.path, self.manifest.words)
        file = self.path / self.manifest.words.file
        try:
            with open(file, "rb") as stream:
                return WordIndex(stream.read(self.manifest.words.bytes))
        except (OSError, ValueError) as error:
            raise UserError(f"{file} is no index of words ({brief(error)}): {_AGAIN}") from error

    @property
    def contexts(self) -> list[SignalColumn]:
        """The context columns that the encoder reads, in the order of `SessionHistory.contexts_BTK`."""
        return [column for column in self.view.signals.columns if column.name != SKIPS]

    @property
    def embeddings(self) -> Vectors:
        """The rows without the columns of a keep head."""
        keep = self.manifest.keep
        return self.vectors.narrowed(self.vectors.dim - (keep.dim if keep else 0))

    def queries(self, dial: float | None = None) -> Tensor:
        """float32 [S, D]: queries of sessions that the encoder was compared on, by which an index is tuned.

        `dial`: the setting of the dial that they are for, of an export with a keep head; its own (`KeepEntry.dial`)
        unless given.
        """
        keep, entry = self.manifest.keep, self.manifest.queries
        file = self.path / entry.file
        try:
            queries_SD = torch.from_numpy(np.array(np.load(file, mmap_mode="r")))  # a map is no larger than the file
            if keep and (stored := keep.dial if entry.dial is None else entry.dial):
                queries_SD[:, -keep.dim :] *= (keep.dial if dial is None else dial) / stored
            return queries_SD
        except DAMAGED as error:
            raise UserError(f"{file} cannot be read ({brief(error)}): {_AGAIN}") from error


def check_file(path: Path, record: FileRecord, remedy: str = f"copy the export again, or {_AGAIN}") -> None:
    """Raises `UserError` unless the file of the export is there, whole and unchanged."""
    if problem := record.problem(path):
        raise UserError(f"{problem}: {remedy}")


def part_pieces(path: Path, manifest: ExportManifest, part: PartEntry) -> Iterator[Piece]:
    """The rows of a part: npy's a block at a time, Parquet's a row group at a time.

    Raises `ValueError`, or what the format's own library raises, for another content than the manifest says.
    """
    int8 = manifest.dtype == "int8"
    dtype, width = np.dtype(np.uint8 if int8 else manifest.dtype), manifest.dim + SCALE_BIAS_BYTES * int8
    row = 0
    for encoded_RW in READERS[manifest.format](path / part.file):
        if encoded_RW.dtype != dtype or encoded_RW.shape[1:] != (width,):
            raise ValueError(f"{part.file} holds {encoded_RW.dtype} {encoded_RW.shape}, not {dtype} of {width} a row")
        if len(encoded_RW):
            yield Piece(part.first_row + row, encoded_RW, manifest.dtype)
        row += len(encoded_RW)
    if row != part.rows:
        raise ValueError(f"{part.file} holds {row} rows, not {part.rows}")


def _tracks(path: Path, manifest: ExportManifest) -> TrackIds:
    """In row order."""
    blocks: dict[str, list[pa.Array]] = {name: [] for name in ("track_id", *manifest.names)}
    for entry in manifest.tracks or manifest.parts:
        table = read_table(path / entry.file, [*blocks, "row"])
        if not np.array_equal(table["row"].to_numpy(), np.arange(entry.first_row, entry.first_row + entry.rows)):
            raise ValueError(f"{entry.file} is not in row order from row {entry.first_row} on")
        for name, chunks in blocks.items():
            chunks += table[name].cast(pa.large_string()).chunks
    ids, *names = (pa.concat_arrays(chunks) for chunks in blocks.values())
    return TrackIds(ids, dict(zip(manifest.names, names, strict=True)))


def _read_parquet(file: Path) -> Iterator[np.ndarray]:
    with open_table(file) as table:
        for group in range(len(table.group_rows)):
            if not len(block := table.group(group)):
                continue
            encoded_RW = block["embedding"].combine_chunks().flatten().to_numpy().reshape(len(block), -1)
            if "scale" in block.column_names:
                scale_bias_R2 = np.stack([block[name].to_numpy() for name in ("scale", "bias")], axis=1)
                tail_R8 = np.ascontiguousarray(scale_bias_R2, dtype="<f4").view(np.uint8)
                encoded_RW = np.concatenate([encoded_RW, tail_R8], axis=1)
            yield encoded_RW


def _read_npy(file: Path) -> Iterator[np.ndarray]:
    like = np.load(file, mmap_mode="r")  # for what its header says: no page of it is touched
    if not like.flags.c_contiguous:
        raise ValueError(f"{file.name} is not in the order of rows")
    with open(file, "rb") as stream:
        stream.seek(like.offset)
        for first in range(0, max(len(like), 1), BLOCK_ROWS):
            shape = (min(len(like) - first, BLOCK_ROWS), *like.shape[1:])
            yield np.fromfile(stream, like.dtype, math.prod(shape)).reshape(shape)


def _read_faiss(file: Path) -> Iterator[np.ndarray]:
    """The vectors of a flat or 16-bit index, which are stored in it one after the other: a view while it is read."""
    faiss, index = import_faiss(), read_faiss(file, PART)
    dtype = {faiss.IndexFlatIP: np.float32, faiss.IndexScalarQuantizer: np.float16}.get(type(index))
    if dtype is None or index.metric_type != faiss.METRIC_INNER_PRODUCT or not index.is_trained:
        raise ValueError(f"{file.name} is a {type(index).__name__}, not a flat or 16-bit index of inner products")
    if index.ntotal:
        codes_X = faiss.rev_swig_ptr(index.codes.data(), index.codes.size())
        yield codes_X.reshape(index.ntotal, index.code_size).view(dtype)


READERS = {"parquet": _read_parquet, "npy": _read_npy, "faiss": _read_faiss}
"""The encoded rows [R, W] of a part, in one array or more; raise what the format's own library raises."""


def _encoder(path: Path, manifest: ExportManifest, weights: WeightsEntry, signals: Signals, profile: int) -> nn.Module:
    """Raises `UserError` unless it turns sessions of `max_tracks` rows into outputs of their width."""
    file, longest = path / weights.file, manifest.encoder.max_tracks
    keep_dim = manifest.keep.dim if manifest.keep else 0
    shape = EncoderShape.of(manifest.dim - keep_dim, keep_dim, signals, profile, weights.config.times)
    try:
        if weights.config.max_tracks != longest:
            raise ValueError(f"it reads {weights.config.max_tracks} tracks, not {longest}")
        with open(file, "rb") as stream:
            state = load(stream.read(weights.bytes))
        encoder = load_query_encoder(weights.config, shape, state)
        inputs = [torch.zeros(1, longest, shape.row_dim), torch.tensor([longest])]
        if shape.columns:
            inputs.append(torch.zeros(1, longest, shape.columns, dtype=torch.int64))
        with torch.no_grad():
            found = tuple(encoder(*inputs).shape)
    except Exception as error:  # the loader, and what it loads, may raise anything
        raise UserError(
            f"{file} is no encoder of rows of {manifest.dim} ({brief(error)}): {_AGAIN}, where the run is of an older "
            "version after training again"
        ) from error
    if found != (1, shape.output_dim):
        raise UserError(f"{file} answers {found} where {(1, shape.output_dim)} was expected: {_AGAIN}")
    return encoder
