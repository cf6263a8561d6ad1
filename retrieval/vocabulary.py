"""Track ids in row order, streamed from a dataset's vocabulary: no rank holds more than a block of them."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datapipes.errors import UserError
from datapipes.manifest import VOCABULARY
from datapipes.sessions import SessionStore

BLOCK_ROWS = 1 << 16
UNREADABLE = (pa.ArrowException, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)
"""What reading a damaged Parquet file raises: Arrow's own, and what Python makes of a name that is no text."""


class Vocabulary:
    """`vocabulary.parquet` of a dataset directory."""

    def __init__(self, store: SessionStore):
        self.file = store.path / VOCABULARY
        self._tracks, self._hash = store.tracks, store.manifest.vocabulary_hash

    def ids(self, first: int, last: int) -> Iterator[tuple[int, pa.Array]]:
        """The ids of rows `first` to `last` (exclusive), as (row of a block's first id, at most 65,536 ids)."""
        try:
            with pq.ParquetFile(self.file) as parquet:
                if (rows := parquet.metadata.num_rows) != self._tracks:
                    raise self._error(f"holds {rows} tracks where the manifest says {self._tracks}")
                groups = parquet.metadata.num_row_groups
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(groups)]
                ends = np.cumsum(sizes)
                wanted = np.flatnonzero((ends > first) & (ends - sizes < last)).tolist()
                row = int(ends[wanted[0]] - sizes[wanted[0]]) if wanted else last
                for batch in parquet.iter_batches(
                    BLOCK_ROWS, row_groups=wanted, columns=["track_id", "row"], use_threads=False
                ):
                    if not np.array_equal(batch["row"].to_numpy(), np.arange(row, row + len(batch))):
                        raise self._error(f"is not in row order near row {row}")
                    low, high = max(first, row), min(last, row + len(batch))
                    if low < high:
                        yield low, batch["track_id"].slice(low - row, high - low).cast(pa.string())
                    row += len(batch)
        except (*UNREADABLE, OSError) as error:
            raise self._error(f"cannot be read ({' '.join(str(error).split())})") from error

    def check(self) -> None:
        """Raises `UserError` unless the ids are those that the dataset's manifest vouches for."""
        digest = hashlib.sha256()
        for _, ids in self.ids(0, self._tracks):
            digest.update("".join(f"{track}\n" for track in ids.to_pylist()).encode())
        if digest.hexdigest() != self._hash:
            raise self._error("does not hold the tracks of the manifest beside it")

    def _error(self, trouble: str) -> UserError:
        return UserError(f"{self.file} {trouble}: prepare the dataset again")
