"""What is known of each track beside its plays, as `prepare --track-features` writes it: `features/` of a dataset.

Files of NumPy, mapped into memory: a batch reads the rows that it needs, and ranks of a machine share the pages.
Imports no torch. Shape legend: N tracks, U tracks that are asked for, F numbers of a track, C columns of values, Z
values of all of these tracks.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from skipwise.common.errors import UserError, brief
from skipwise.common.files import FileRecord
from skipwise.common.schema import Count, PositiveCount, Sha256, StrictModel, matching
from skipwise.common.tables import read_table

FEATURES = "features"
"""The folder in a dataset directory."""
Kind = Literal["number", "vector", "values"]
FileName = Annotated[
    str, matching(r"\d{1,3}-(numbers|codes|offsets)\.npy|\d{1,3}-values\.parquet", "a file of prepare")
]
_AGAIN = "prepare the dataset again"


class FeatureEntry(StrictModel):
    """One column, in a dataset's manifest."""

    name: str
    kind: Kind
    """`number`: less the mean of the training's tracks, over their deviation; `vector`: numbers as they are;
    `values`: codes of categories, any number a track."""
    width: PositiveCount
    """Numbers of a track, or how many values have a code."""
    tracks: Count
    """Tracks of which something is known."""
    unknown: Count = 0
    """Of `values`: mentions of a value that no track of the training has; they are left out."""
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    deviation: Annotated[float, Field(gt=0)] = 1.0
    files: dict[FileName, Sha256]
    """Each with its SHA-256, in hex."""


@dataclass(frozen=True)
class Content:
    """What is known of U tracks."""

    numbers_UF: np.ndarray
    """float32: of all numbers and vectors; 0 where nothing is known."""
    counts_UC: np.ndarray
    """int64: how many values each track has in each column."""
    codes_CZ: list[np.ndarray]
    """int64 [Z_c] each: rows of the one table of values, track by track."""


@dataclass(frozen=True)
class TrackFeatures:
    """The columns of a dataset that a model reads, in the order in which it names them."""

    entries: tuple[FeatureEntry, ...]
    numbers: tuple[np.ndarray, ...]
    """float32 [N, width] of each number and vector."""
    offsets: tuple[np.ndarray, ...]
    """int64 [N + 1] of each column of values: where each track's codes begin."""
    codes: tuple[np.ndarray, ...]
    """int32 [Z]: from 0 in each column."""
    texts: tuple[Path, ...]
    """The file of each column's values: `value` and `code`."""

    @classmethod
    def open(
        cls, dataset: Path, entries: Sequence[FeatureEntry], names: Sequence[str], num_tracks: int
    ) -> "TrackFeatures":
        """Maps the files of these columns; raises `UserError` for a name that there is not, and for other files than
        those that the manifest was written for."""
        known = {entry.name: (place, entry) for place, entry in enumerate(entries)}
        for name in names:
            if name not in known:
                has = f"has {', '.join(known)}; name these, or prepare it again with {name}"
                if not known:
                    has = "has no features of tracks; prepare it again with --track-features or --features, or leave "
                    has += "--data.features out"
                raise UserError(f"--data.features {name}: {dataset} {has}")
        chosen = [known[name] for name in names]
        folder, numbers, offsets, codes, texts = dataset / FEATURES, [], [], [], []
        for place, entry in chosen:
            for file, digest in entry.files.items():
                _check(folder / file, digest)
            if entry.kind == "values":
                offsets.append(_mapped(folder / f"{place}-offsets.npy", np.int64, (num_tracks + 1,)))
                texts.append(folder / f"{place}-values.parquet")
                codes.append(_mapped(folder / f"{place}-codes.npy", np.int32, (int(offsets[-1][-1]),)))
            else:
                numbers.append(_mapped(folder / f"{place}-numbers.npy", np.float32, (num_tracks, entry.width)))
        return cls(tuple(entry for _, entry in chosen), tuple(numbers), tuple(offsets), tuple(codes), tuple(texts))

    @property
    def num_numbers(self) -> int:
        """F."""
        return sum(numbers.shape[1] for numbers in self.numbers)

    @property
    def num_columns(self) -> int:
        """C."""
        return len(self.codes)

    @property
    def num_values(self) -> int:
        """Rows of the table of values: those of the first column, then those of the next."""
        return sum(entry.width for entry in self.entries if entry.kind == "values")

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what is read."""
        text = "\n".join(f"{entry.name} {' '.join(entry.files.values())}" for entry in self.entries)
        return hashlib.sha256(text.encode()).hexdigest()

    def value_rows(self) -> pa.Table:
        """`column`, `value` and `row` of each row of the table of values that has a value."""
        tables, first = [], 0
        entries = [entry for entry in self.entries if entry.kind == "values"]
        for entry, file in zip(entries, self.texts, strict=True):
            found = read_table(file, ["value", "code"])
            row = pa.array(first + found["code"].to_numpy().astype(np.int64))
            column = pa.array([entry.name] * len(found), pa.string())
            tables.append(pa.table({"column": column, "value": found["value"].cast(pa.string()), "row": row}))
            first += entry.width
        empty = pa.schema({"column": pa.string(), "value": pa.string(), "row": pa.int64()}).empty_table()
        return pa.concat_tables([empty, *tables])

    def of(self, rows_U: np.ndarray) -> Content:
        """What is known of these tracks; nothing of rows from N on."""
        known_U = rows_U < (len(self.numbers[0]) if self.numbers else len(self.offsets[0]) - 1)
        safe_U = np.where(known_U, rows_U, 0)
        parts = [numbers[safe_U] * known_U[:, None] for numbers in self.numbers]
        numbers_UF = np.concatenate([np.zeros((len(rows_U), 0), dtype=np.float32), *parts], axis=1, dtype=np.float32)
        counts, codes, first = [], [], 0
        widths = [entry.width for entry in self.entries if entry.kind == "values"]
        for offsets, of_column, width in zip(self.offsets, self.codes, widths, strict=True):
            start_U = offsets[safe_U]
            count_U = (offsets[safe_U + 1] - start_U) * known_U
            place_Z = np.arange(count_U.sum()) - np.repeat(count_U.cumsum() - count_U, count_U)
            codes.append(first + of_column[np.repeat(start_U, count_U) + place_Z].astype(np.int64))
            counts.append(count_U)
            first += width
        counts_UC = np.stack(counts, axis=1) if counts else np.zeros((len(rows_U), 0), dtype=np.int64)
        return Content(numbers_UF, counts_UC, codes)


def _check(file: Path, digest: str) -> None:
    try:
        if FileRecord.of(file.parent, file.name).sha256 == digest:
            return
    except OSError as error:
        raise UserError(f"{file} cannot be read ({brief(error)}): {_AGAIN}") from error
    raise UserError(f"{file} is not what prepare wrote, by its checksum: {_AGAIN}")


def _mapped(file: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        if shape[0] == 0:
            return np.zeros(shape, dtype=dtype)
        raise UserError(f"{file} cannot be read ({brief(error)}): {_AGAIN}") from error
    if found.dtype != dtype or found.shape != shape:
        raise UserError(
            f"{file} holds {found.dtype} {list(found.shape)}, expected {np.dtype(dtype)} {list(shape)}: {_AGAIN}"
        )
    return found
