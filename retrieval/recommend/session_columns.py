"""A table of sessions, from a file or from Python: its columns, and each of their values, checked.

Shape legend: S sessions of a chunk, P plays of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError, brief, shown
from skipwise.datapipes.session_files import STRENGTHS
from skipwise.datapipes.view import View
from skipwise.retrieval.recommend.config import MAX_PLAYS
from skipwise.retrieval.track_ids import TrackIds

_TEXT = (pa.string(), pa.large_string(), pa.string_view())


@dataclass(frozen=True)
class SessionChunk:
    """Sessions in the table's order, flat."""

    first: int
    """The table's row of the first of them, counted from 0."""
    ids_S: pa.Array | None
    """`session_id`, unchanged; None without that column."""
    lengths_S: np.ndarray
    """int64, at least 1."""
    tracks_P: pa.Array
    """Track ids, large_string."""
    skipped_P: np.ndarray
    """bool."""


class SessionColumns:
    """The columns `tracks` and, where the table has them, `skips` and `session_id`."""

    def __init__(self, source: str, schema: pa.Schema, view: View):
        """`source` names the table in messages; `view` decides which strengths count as skipped.

        Raises `UserError` for a column that is missing or of another type.
        """
        self._source, self._view = source, view
        self.names = [name for name in ("tracks", "skips", "session_id") if name in schema.names]
        for name in self.names:
            if schema.names.count(name) > 1:
                raise UserError(f"{source} has more than one column '{name}': leave one")
        if "tracks" not in self.names:
            raise UserError(f"{source} has no column 'tracks': expected a list of track ids in each row")
        self._check_lists(schema, "tracks", "track ids as text", lambda kind: kind in _TEXT)
        if "skips" in self.names:
            wanted = f"true or false, or strengths 0..{STRENGTHS}"
            self._check_lists(
                schema, "skips", wanted, lambda kind: pa.types.is_boolean(kind) or pa.types.is_integer(kind)
            )
        self.id_type = schema.field("session_id").type if "session_id" in self.names else None
        """Arrow's type of `session_id`; None without that column."""
        if self.id_type is not None and pa.types.is_nested(self.id_type):
            raise UserError(f"{source}: column 'session_id' is {brief(self.id_type)}: expected one value in each row")

    def _check_lists(self, schema: pa.Schema, name: str, wanted: str, fits: Callable[[pa.DataType], bool]) -> None:
        kind = schema.field(name).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not fits(kind.value_type):
            raise UserError(f"{self._source}: column '{name}' is {brief(kind)}: expected lists of {wanted}")

    def chunk(self, first: int, batch: pa.RecordBatch) -> SessionChunk:
        """The sessions of `batch`, which starts at row `first`. Raises `UserError` for a value, naming its row."""
        lengths_S, tracks_P = self._lists(first, batch, "tracks")
        self._refuse(first, lengths_S == 0, "tracks", "is an empty session: leave such rows out")
        self._refuse(first, lengths_S > MAX_PLAYS, "tracks", f"has more than {MAX_PLAYS} tracks: cut it")
        skipped_P = np.zeros(len(tracks_P), dtype=bool)
        if "skips" in self.names:
            skip_lengths_S, skips_P = self._lists(first, batch, "skips")
            self._refuse(first, skip_lengths_S != lengths_S, "skips", "has not as many values as 'tracks'")
            skipped_P = skips_P.to_numpy(zero_copy_only=False)
            if skipped_P.dtype != bool:
                wrong_P = (skipped_P < 0) | (skipped_P > STRENGTHS)
                self._refuse(first, _any(wrong_P, lengths_S), "skips", f"holds a strength outside 0..{STRENGTHS}")
                skipped_P = self._view.skipped(skipped_P)
        ids_S = batch["session_id"] if self.id_type is not None else None
        return SessionChunk(first, ids_S, lengths_S, tracks_P.cast(pa.large_string()), skipped_P)

    def _lists(self, first: int, batch: pa.RecordBatch, name: str) -> tuple[np.ndarray, pa.Array]:
        """Lengths int64 [S] and values [P] of a column without nulls; a damaged file may hold any bytes."""
        column = batch[name]
        column.validate(full=True)
        self._refuse(first, column.is_null().to_numpy(zero_copy_only=False), name, "is null")
        values = column.flatten()
        lengths_S = np.diff(column.offsets.to_numpy()).astype(np.int64)
        nulls_P = values.is_null().to_numpy(zero_copy_only=False)
        self._refuse(first, _any(nulls_P, lengths_S), name, "has a null in its list")
        return lengths_S, values

    def _refuse(self, first: int, wrong_S: np.ndarray, name: str, trouble: str) -> None:
        if wrong_S.any():
            row = first + int(wrong_S.argmax())
            raise UserError(f"{self._source}, row {row} (counted from 0): '{name}' {trouble}")

    def refuse_unknown(self, chunk: SessionChunk, known_P: np.ndarray, tracks: TrackIds) -> None:
        """Raises `UserError` for the first track that is not in the export."""
        if known_P.all():
            return
        play = int(known_P.argmin())
        row = chunk.first + int(np.searchsorted(chunk.lengths_S.cumsum(), play, side="right"))
        track = chunk.tracks_P[play].as_py()
        near = tracks.near(track)
        raise UserError(
            f"{self._source}, row {row} (counted from 0): 'tracks' holds {shown(track)}, which is not in the export"
            f"{f' (perhaps {shown(near)} was meant)' if near else ''}: remove it, or leave such tracks out with "
            "unknown=drop (--unknown drop)"
        )


def _any(wrong_P: np.ndarray, lengths_S: np.ndarray) -> np.ndarray:
    """bool [S]: the sessions that hold a wrong play."""
    counts = np.concatenate([[0], wrong_P.cumsum()])
    ends_S = lengths_S.cumsum()
    return counts[ends_S] > counts[ends_S - lengths_S]
