"""Track ids by row, and rows by track id, for a server's lookups: the ids once, and their order."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class TrackIds:
    """The ids of a table's rows. Besides the text itself, memory is 8 bytes a track."""

    def __init__(self, ids: pa.Array):
        """`ids`: text in row order, without nulls. Raises `ValueError` where one stands twice."""
        self._ids = ids.cast(pa.large_string())
        self._order_R = pc.sort_indices(self._ids).to_numpy()
        in_order = self._ids.take(pa.array(self._order_R))
        twice = pc.equal(in_order[1:], in_order[:-1]).to_numpy(zero_copy_only=False)
        if twice.any():
            raise ValueError(f"the track {in_order[int(twice.argmax())].as_py()!r} has two rows")

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, rows: np.ndarray) -> pa.Array:
        """The ids of `rows`; null where a row is -1."""
        rows = np.asarray(rows)
        return self._ids.take(pa.array(rows, mask=rows < 0))

    def row(self, track: str) -> int | None:
        """The row of one track, or None."""
        place = self._place(track)
        found = place < len(self) and self._at(place) == track
        return int(self._order_R[place]) if found else None

    def rows(self, tracks: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """int64: the row of each track, -1 for those that have none. Made for many at once."""
        found = pc.index_in(tracks.cast(pa.large_string()), value_set=self._ids)
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)

    def starting_with(self, prefix: str) -> Iterator[str]:
        """Tracks whose id begins so, in the order of their text."""
        place = self._place(prefix)
        while place < len(self) and (track := self._at(place)).startswith(prefix):
            yield track
            place += 1

    def _place(self, track: str) -> int:
        """How many ids come before `track`; Arrow orders text by its UTF-8 bytes, as Python does by its characters."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._at(middle) < track else (low, middle)
        return low

    def _at(self, place: int) -> str:
        return self._ids[int(self._order_R[place])].as_py()
