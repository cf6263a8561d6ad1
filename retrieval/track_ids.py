"""Track ids and names by row, and rows by track id, for lookups in serving.

The ids are held once, with their order as text, for prefixes, and that of their hashes, for the tracks of a batch:
bisecting text reads from another place of the memory at each step. Arrow's calls cost as much for ten rows as for
hundreds, so these are read from its buffers.
"""

import difflib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_LOOKED_AT = 200
"""Ids that are compared to find a similar one."""
_HASHED = 1 << 16
"""Ids that are Python's text at a time, while their hashes are computed."""


class TrackIds:
    """The ids of a table's rows. Besides the text itself, memory is 24 bytes a track."""

    def __init__(self, ids: pa.Array, names: Mapping[str, pa.Array] = MappingProxyType({})):
        """`ids`: text in row order; `names`: by column, what the tracks are called, null where it is not known.

        Raises `ValueError` where an id is null or stands twice.
        """
        for values in names.values():
            values.validate(full=True)
        self.names = {name: values.cast(pa.large_string()) for name, values in names.items()}
        self._names = {name: _Texts(values) for name, values in self.names.items()}
        ids.validate(full=True)  # Parquet takes any bytes for text
        if ids.null_count:
            raise ValueError(f"{ids.null_count} of its tracks have no id")
        self._ids = ids.cast(pa.large_string())
        self._texts = _Texts(self._ids)
        self._order_R = pc.sort_indices(self._ids).to_numpy()
        in_order = self._ids.take(pa.array(self._order_R))
        twice = pc.equal(in_order[1:], in_order[:-1]).to_numpy(zero_copy_only=False)
        if twice.any():
            raise ValueError(f"the track {in_order[int(twice.argmax())].as_py()!r} has two rows")
        hash_R = np.concatenate(
            [_hashes(ids[first : first + _HASHED]) for first in range(0, max(len(ids), 1), _HASHED)]
        )
        self._by_hash_R = hash_R.argsort()
        self._hash_R = hash_R[self._by_hash_R]

    def changed(self, rows: np.ndarray, ids: pa.ChunkedArray, names: Mapping[str, pa.ChunkedArray]) -> "TrackIds":
        """The same, with the tracks of `rows`: new rows behind the last, without a gap, or others in place of tracks.

        `names`: by column, of those that are there. Raises `ValueError` where an id stands twice or a row is missing.
        """
        if not len(rows):
            return self
        order = np.argsort(rows, kind="stable")
        rows, new = rows[order], ids.combine_chunks().cast(pa.large_string()).take(pa.array(order))
        behind = rows >= len(self)
        if len({*new.to_pylist()}) < len(new) or len({*rows.tolist()}) < len(rows):
            raise ValueError("it names a track or a row twice")
        if not np.array_equal(rows[behind], np.arange(len(self), len(self) + behind.sum())):
            raise ValueError("its new rows do not follow the last one")
        replaced = [int(row) for row in rows[~behind]]

        def grown(values: pa.Array, of_new: pa.Array) -> pa.Array:
            if replaced:
                mask = np.zeros(len(values), dtype=bool)
                mask[replaced] = True
                values = pc.replace_with_mask(values, pa.array(mask), of_new[: len(replaced)])
            return pa.concat_arrays([values, of_new[len(replaced) :]])

        found = copy(self)
        found._ids = grown(self._ids, new)
        found._texts = _Texts(found._ids)
        found.names = {}
        for name, values in self.names.items():
            of_new = names[name].combine_chunks() if name in names else pa.nulls(len(rows), pa.string())
            found.names[name] = grown(values, of_new.cast(values.type).take(pa.array(order)))
        found._names = {name: _Texts(values) for name, values in found.names.items()}
        left = self._order_R[~np.isin(self._order_R, replaced)] if replaced else self._order_R
        found._order_R = left
        places = []
        in_order = np.argsort(np.array(new.to_pylist(), dtype=object), kind="stable")
        for number in in_order:
            track, place = new[int(number)].as_py(), found._place(new[int(number)].as_py())
            if place < len(left) and found._at(place) == track:
                raise ValueError(f"the track {track!r} has two rows")
            places.append(place)
        found._order_R = np.insert(left, places, rows[in_order].astype(left.dtype))
        stays_R = ~np.isin(self._by_hash_R, replaced)
        hash_N, hash_R = _hashes(new), self._hash_R[stays_R]
        by_hash_N = hash_N.argsort()
        places_N = hash_R.searchsorted(hash_N[by_hash_N])
        found._hash_R = np.insert(hash_R, places_N, hash_N[by_hash_N])
        found._by_hash_R = np.insert(self._by_hash_R[stays_R], places_N, rows[by_hash_N])
        return found

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, rows: np.ndarray) -> pa.Array:
        """The ids of `rows`; null where a row is -1."""
        rows = np.asarray(rows)
        return self._ids.take(pa.array(rows, mask=rows < 0))

    def texts(self, rows: list[int]) -> list[str]:
        """The ids of `rows`, none of which is -1: of few faster than by `ids`."""
        return [self._texts[row] for row in rows]

    def named(self, rows: Sequence[int] | np.ndarray) -> dict[str, pa.Array]:
        """What the tracks of `rows`, none of which is -1, are called, by column."""
        return {name: values.take(pa.array(rows, pa.int64())) for name, values in self.names.items()}

    def named_rows(self, rows: Sequence[int]) -> list[dict[str, str]]:
        """`named`, a dictionary a track, without what is not known."""
        names = self._names.items()
        return [{name: text for name, texts in names if (text := texts.get(row)) is not None} for row in rows]

    def row(self, track: str) -> int | None:
        """The row of one track, or None."""
        (row,) = self.rows_of([track])
        return None if row < 0 else row

    def rows_of(self, tracks: list[str]) -> list[int]:
        """The row of each track, -1 for those that have none."""
        return [self._hashed(track) for track in tracks]

    def rows(self, tracks: pa.Array) -> np.ndarray:
        """int64: the row of each track, -1 for those that have none. `tracks` holds no null.

        All of them are bisected together, step by step.
        """
        asked = tracks.cast(pa.large_string()).dictionary_encode()
        low_N, last = np.zeros(len(asked.dictionary), dtype=np.int64), len(self) - 1
        high_N = np.full_like(low_N, last)
        for _ in range(last.bit_length()):
            middle_N = (low_N + high_N) // 2
            before_N = pc.less(self._sorted(middle_N), asked.dictionary).to_numpy(zero_copy_only=False)
            low_N = np.where(before_N, np.minimum(middle_N + 1, high_N), low_N)
            high_N = np.where(before_N, high_N, middle_N)
        found_N = pc.equal(self._sorted(low_N), asked.dictionary).to_numpy(zero_copy_only=False)
        return np.where(found_N, self._order_R[low_N].astype(np.int64), -1)[asked.indices.to_numpy()]

    def _sorted(self, place_N: np.ndarray) -> pa.Array:
        return self._ids.take(pa.array(self._order_R[place_N]))

    def starting_with(self, prefix: str, at_once: int = 100) -> Iterator[str]:
        """Ids that start with `prefix`, in text order, looked up `at_once`: one by one takes six times as long."""
        place = self._place(prefix)
        while len(rows := self._order_R[place : place + at_once]):
            for track in self._ids.take(pa.array(rows)).to_pylist():
                if not track.startswith(prefix):
                    return
                yield track
            place += at_once

    def near(self, track: str) -> str | None:
        """The most similar id among those with the longest common prefix; None where none is similar enough."""
        for length in range(len(track), 0, -1):
            if alike := list(islice(self.starting_with(track[:length]), _LOOKED_AT)):
                return next(iter(difflib.get_close_matches(track, alike, n=1, cutoff=0.8)), None)
        return None

    def _place(self, track: str) -> int:
        """How many ids come before `track`; Arrow orders text by its UTF-8 bytes, as Python does by its characters."""
        low, high = 0, len(self._order_R)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._at(middle) < track else (low, middle)
        return low

    def _hashed(self, track: str) -> int:
        wanted, hashes = _hash(track), self._hash_R.data
        place = bisect_left(hashes, wanted)
        if place == len(hashes) or hashes[place] != wanted:
            return -1
        row = self._by_hash_R.item(place)
        return row if self._texts[row] == track else self._row(track)  # two tracks may have one hash

    def _row(self, track: str) -> int:
        place = self._place(track)
        return int(self._order_R[place]) if place < len(self) and self._at(place) == track else -1

    def _at(self, place: int) -> str:
        return self._texts[self._order_R.item(place)]


_hash = hash


class _Texts:
    """The values of an array of `large_string`, one by one."""

    def __init__(self, values: pa.Array):
        there, bounds, content = values.buffers()
        self._first = values.offset
        self._there = memoryview(there).cast("B") if there else None
        self._bounds = memoryview(bounds).cast("B").cast("q")
        self._content = memoryview(content or b"")

    def __getitem__(self, row: int) -> str:
        at = row + self._first
        return str(self._content[self._bounds[at] : self._bounds[at + 1]], "utf-8")

    def get(self, row: int) -> str | None:
        """None where it is null."""
        at = row + self._first
        return self[row] if self._there is None or self._there[at // 8] >> at % 8 & 1 else None


def _hashes(ids: pa.Array) -> np.ndarray:
    return np.fromiter(map(_hash, ids.to_pylist()), np.int64, len(ids))
