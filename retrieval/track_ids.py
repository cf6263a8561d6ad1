"""Track ids and names by row, and rows by track id, for lookups in serving: the ids once, and their order."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_LOOKED_AT = 200
"""Ids that are compared to find a similar one."""
_MANY = 30
"""Tracks from which on it is faster to look them up together."""


class TrackIds:
    """The ids of a table's rows. Besides the text itself, memory is 8 bytes a track."""

    def __init__(self, ids: pa.Array, names: Mapping[str, pa.Array] = MappingProxyType({})):
        """`ids`: text in row order; `names`: by column, what the tracks are called, null where it is not known.

        Raises `ValueError` where an id is null or stands twice.
        """
        for values in names.values():
            values.validate(full=True)
        self.names = dict(names)
        ids.validate(full=True)  # Parquet takes any bytes for text
        if ids.null_count:
            raise ValueError(f"{ids.null_count} of its tracks have no id")
        self._ids = ids.cast(pa.large_string())
        self._order_R = pc.sort_indices(self._ids).to_numpy()
        in_order = self._ids.take(pa.array(self._order_R))
        twice = pc.equal(in_order[1:], in_order[:-1]).to_numpy(zero_copy_only=False)
        if twice.any():
            raise ValueError(f"the track {in_order[int(twice.argmax())].as_py()!r} has two rows")

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
        found.names = {}
        for name, values in self.names.items():
            of_new = names[name].combine_chunks() if name in names else pa.nulls(len(rows), pa.string())
            found.names[name] = grown(values, of_new.cast(values.type).take(pa.array(order)))
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
        return found

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, rows: np.ndarray) -> pa.Array:
        """The ids of `rows`; null where a row is -1."""
        rows = np.asarray(rows)
        return self._ids.take(pa.array(rows, mask=rows < 0))

    def named(self, rows: Sequence[int] | np.ndarray) -> dict[str, pa.Array]:
        """What the tracks of `rows`, none of which is -1, are called, by column."""
        return {name: values.take(pa.array(rows, pa.int64())) for name, values in self.names.items()}

    def named_rows(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, str]]:
        """`named`, a dictionary a track, without what is not known."""
        columns = {name: values.to_pylist() for name, values in self.named(rows).items()}
        of_rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        named = [{name: value for name, value in row.items() if value is not None} for row in of_rows]
        return named or [{} for _ in rows]

    def row(self, track: str) -> int | None:
        """The row of one track, or None."""
        place = self._place(track)
        found = place < len(self) and self._at(place) == track
        return int(self._order_R[place]) if found else None

    def rows_of(self, tracks: list[str]) -> list[int]:
        """The row of each track, -1 for those that have none."""
        if len(tracks) < _MANY:
            return [-1 if row is None else row for row in map(self.row, tracks)]
        # Half a character, which is the id of no track, is kept as bytes that no id has.
        encoded = pa.array([track.encode(errors="surrogatepass") for track in tracks], pa.large_binary())
        found: list[int] = self.rows(encoded.view(pa.large_string())).tolist()
        return found

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

    def _at(self, place: int) -> str:
        return self._ids[int(self._order_R[place])].as_py()
