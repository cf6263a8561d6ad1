"""Track ids in row order, streamed from a vocabulary file: no rank holds more than a block of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import open_table
from skipwise.datapipes.manifest import PREPARE_AGAIN, VOCABULARY
from skipwise.datapipes.session_files import DAMAGED
from skipwise.datapipes.sessions import SessionStore

BLOCK_ROWS = 1 << 16
OF_ROWS = ("track_id", "row", "count")
"""The columns that every vocabulary has; others say what a track is called."""


class Vocabulary:
    """`vocabulary.parquet` of a dataset directory, or a run's own."""

    def __init__(self, file: Path, num_tracks: int, digest: str, remedy: str):
        """`digest`: SHA-256, in hex, over the ids in row order, each followed by a newline; `remedy`: what to do
        about a file that is not so."""
        self.file, self.num_tracks, self._digest, self._remedy = file, num_tracks, digest, remedy

    @classmethod
    def of(cls, store: SessionStore) -> "Vocabulary":
        """Returns a dataset's vocabulary, to be checked against the hash in its manifest."""
        return cls(store.path / VOCABULARY, store.num_tracks, store.manifest.vocabulary_hash, PREPARE_AGAIN)

    def names(self) -> list[str]:
        """Returns the columns that say what a track is called."""
        try:
            with open_table(self.file) as table:
                return [one.name for one in table.schema if one.name not in OF_ROWS and one.type == pa.string()]
        except DAMAGED as error:
            raise self._error(f"cannot be read ({brief(error)})") from error

    def ids(self, first: int, last: int) -> Iterator[tuple[int, pa.Array]]:
        """Yields the ids of rows `first` to `last` (exclusive), as (row of a block's first id, at most 65,536 ids)."""
        for row, tracks in self.tracks(first, last, []):
            yield row, tracks["track_id"]

    def tracks(self, first: int, last: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the column `track_id` of these rows and those of `names`, like `ids`."""
        columns = ["track_id", *names]
        try:
            with open_table(self.file) as table:
                if (rows := table.metadata.num_rows) != self.num_tracks:
                    raise self._error(f"holds {rows} tracks where there should be {self.num_tracks}")
                ends = np.cumsum(table.group_rows)
                starts = np.append(0, ends[:-1])
                wanted = np.flatnonzero((ends > first) & (starts < last)).tolist()
                row = int(starts[wanted[0]]) if wanted else last
                for batch in table.batches(BLOCK_ROWS, [*columns, "row"], wanted):
                    if not np.array_equal(batch["row"].to_numpy(), np.arange(row, row + len(batch))):
                        raise self._error(f"is not in row order near row {row}")
                    batch.validate(full=True)  # Parquet accepts any bytes as text
                    low, high = max(first, row), min(last, row + len(batch))
                    if low < high:
                        of_rows = batch.select(columns).slice(low - row, high - low)
                        yield low, of_rows.cast(pa.schema({name: pa.string() for name in columns}))
                    row += len(batch)
        except DAMAGED as error:
            raise self._error(f"cannot be read ({brief(error)})") from error

    def digest(self) -> str:
        """Returns the SHA-256, in hex, of the ids in the file."""
        digest = hashlib.sha256()
        for _, ids in self.ids(0, self.num_tracks):
            lines = pc.binary_join_element_wise(ids, "", "\n")
            _, starts, text = lines.buffers()
            digest.update(memoryview(text)[: np.frombuffer(starts, np.int32)[len(ids)]])
        return digest.hexdigest()

    def check(self) -> None:
        """Raises `UserError` unless the ids are those of the hash."""
        if self.digest() != self._digest:
            raise self._error("does not hold the tracks that its manifest was written for")

    def _error(self, trouble: str) -> UserError:
        return UserError(f"{self.file} {trouble}: {self._remedy}")
