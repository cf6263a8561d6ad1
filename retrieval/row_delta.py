"""A delta of rows: what a run that follows has changed since its delta before, in files that a service applies.

`DELTAS/00000001/` and so on, each with `manifest.json`, the changed rows of each rank, the tracks that have got rows,
and the whole encoder. Its manifest names the hash of the one before, so that nobody applies them to anything else.

Shape legend: X changed rows, D width.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.torch import load as load_weights
from torch import Tensor

from skipwise.common.errors import UserError, brief
from skipwise.common.files import FileRecord, read_text
from skipwise.common.mirrors import copy_of, local
from skipwise.common.schema import Count, PositiveCount, Sha256, StrictModel, validate
from skipwise.common.stores import Place
from skipwise.common.tables import read_table
from skipwise.datapipes.manifest import MANIFEST

TRACKS, ENCODER = "tracks.parquet", "encoder.safetensors"
_LARGEST = 1 << 24
_REMEDY = "wait for the run to write it again, or export the run and serve that"


class DeltaPart(FileRecord):
    """The changed rows of one rank: `rows` int64 [X], ascending, and `values` float32 [X, D]."""

    rows: Count


class DeltaManifest(StrictModel):
    """The description of a delta."""

    number: PositiveCount
    previous: str
    """The hash of the manifest before; empty for the first."""
    base: Sha256
    """`record_hash` of the run whose weights and rows the sequence began with."""
    rows_hash: Sha256
    """`vocabulary_hash` of an export of that run."""
    table_rows: PositiveCount
    """Rows that belong to tracks, once it is applied."""
    dim: PositiveCount
    parts: list[DeltaPart]
    tracks: FileRecord
    """`row` and `track_id` of the tracks that have got a row, and columns of what they are called."""
    encoder: FileRecord
    part: str
    """The part of the data that was trained on."""
    heard_until: float
    """When the newest of the data landed, in seconds since 1970."""
    schema_version: int = 1

    def text(self) -> str:
        """The file's content: equal for equal deltas."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n"


class AppliedEntry(StrictModel):
    """Of an export: the last delta of the run that follows whose rows it has."""

    number: PositiveCount
    hash: Sha256


def hash_of(text: str) -> str:
    """What the next manifest names this one by."""
    return hashlib.sha256(text.encode()).hexdigest()


def record_hash(record: Mapping[str, Any]) -> str:
    """Of a run's record, as an export's manifest has it under `trained`."""
    return hash_of(json.dumps(record, sort_keys=True))


def delta_name(number: int) -> str:
    """Of a delta's directory."""
    return f"{number:08}"


@dataclass(frozen=True)
class RowDelta:
    """A delta, read and checked."""

    manifest: DeltaManifest
    hash: str
    rows_X: np.ndarray
    """int64, ascending."""
    values_XD: np.ndarray
    """float32."""
    tracks: pa.Table
    encoder: dict[str, Tensor]


class Deltas:
    """The deltas of a folder, local or in an object store."""

    def __init__(self, folder: str):
        self.folder = folder
        self._place = Place.of(folder)

    def look(self, number: int) -> bool:
        """Brings what a store has from the delta of this number on; returns whether there is a folder of deltas."""

        def wanted(name: str) -> bool:
            found = _number(name.partition("/")[0])
            return found is not None and found >= number

        return local(self.folder, wanted, may_be_new=True).is_dir()

    def hash(self, number: int) -> str | None:
        """The hash of a delta's manifest as it was when last looked; None where there is none."""
        text = self._manifest(number)
        return None if text is None else hash_of(text)

    def first(self) -> int | None:
        """The number of the oldest delta that is there, of those that were looked for."""
        folder = local_of(self.folder)
        names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        return min(filter(None, map(_number, names)), default=None)

    def base(self) -> str | None:
        """`base` of the newest delta that is there; None where there is none, or none that can be read."""
        folder = local_of(self.folder)
        names = (
            self._place.files() if self._place else [one.name for one in folder.iterdir()] if folder.is_dir() else []
        )
        if (newest := max(filter(None, (_number(name.partition("/")[0]) for name in names)), default=None)) is None:
            return None
        self.look(newest)
        try:
            base: str | None = json.loads(self._manifest(newest) or "{}").get("base")
        except ValueError:  # cut short, and to be written again
            return None
        return base

    def read(self, number: int) -> RowDelta | None:
        """The delta of this number, None where there is none; raises `UserError` for one that is damaged."""
        text = self._manifest(number)
        if text is None:
            return None
        folder = local_of(self.folder) / delta_name(number)
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"{folder / MANIFEST} is not JSON: {_REMEDY}") from error
        manifest = validate(DeltaManifest, content, folder / MANIFEST, _REMEDY)
        for record in (*manifest.parts, manifest.tracks, manifest.encoder):
            if problem := record.problem(folder):
                raise UserError(f"{problem}: {_REMEDY}")
        try:
            parts = [_part(folder / part.file, part, manifest.dim) for part in manifest.parts]
            rows_X = np.concatenate([rows for rows, _ in parts])
            tracks = read_table(folder / manifest.tracks.file)
            rows_of_tracks = tracks["row"].to_numpy().astype(np.int64)
            if (np.diff(rows_X) <= 0).any() or any(
                len(rows) and not 0 <= rows.min() <= rows.max() < manifest.table_rows
                for rows in (rows_X, rows_of_tracks)
            ):
                raise ValueError("its rows are not in order, or beyond the table")
            with open(folder / manifest.encoder.file, "rb") as stream:
                encoder = load_weights(stream.read(manifest.encoder.bytes))
        except (OSError, ValueError, KeyError, SafetensorError, pa.ArrowException) as error:
            raise UserError(f"{folder} is no delta ({brief(error)}): {_REMEDY}") from error
        values_XD = np.concatenate([values for _, values in parts])
        return RowDelta(manifest, hash_of(text), rows_X, values_XD, tracks, encoder)

    def _manifest(self, number: int) -> str | None:
        file = local_of(self.folder) / delta_name(number) / MANIFEST
        if number < 1 or not file.exists():
            return None
        return read_text(file, "the manifest of a delta", _LARGEST)


def _number(name: str) -> int | None:
    """Which delta's directory has this name; None for another name."""
    return int(name) if len(name) == 8 and name.isdecimal() and name.isascii() else None


def local_of(folder: str) -> Path:
    """Where the files of a folder are, once `Deltas.look` has looked."""
    place = Place.of(folder)
    return Path(folder) if place is None else copy_of(place)


def _part(file: Path, part: DeltaPart, dim: int) -> tuple[np.ndarray, np.ndarray]:
    with open(file, "rb") as stream:
        tensors = load(stream.read(part.bytes))
    rows_X, values_XD = tensors["rows"], tensors["values"]
    if rows_X.shape != (part.rows,) or rows_X.dtype != np.int64 or values_XD.shape != (part.rows, dim):
        raise ValueError(f"{file.name} holds other rows than its manifest says")
    if values_XD.dtype != np.float32 or not np.isfinite(values_XD).all():
        raise ValueError(f"{file.name} holds numbers that are not finite")
    return rows_X, values_XD
