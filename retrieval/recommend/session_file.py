"""Sessions from a Parquet file of anybody's making, a chunk at a time, each value checked.

Shape legend: S sessions of a chunk, P plays of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.common.errors import UserError, brief, shown
from skipwise.common.files import require_regular_file
from skipwise.datapipes.session_files import DAMAGED, STRENGTHS
from skipwise.datapipes.view import View
from skipwise.retrieval.recommend.limits import MOST_PLAYS

_TEXT = (pa.string(), pa.large_string(), pa.string_view())


@dataclass(frozen=True)
class Chunk:
    """Sessions in file order, flat."""

    first: int
    """The file's row of the first of them, counted from 0."""
    names_S: pa.Array | None
    """`session_id`, as it stands in the file; None where it is not there."""
    lengths_S: np.ndarray
    """int64, at least 1."""
    tracks_P: pa.Array
    """Ids, large_string."""
    skipped_P: np.ndarray
    """bool."""

    def row_of(self, play: int) -> int:
        """The file's row that holds this play."""
        return self.first + int(np.searchsorted(self.lengths_S.cumsum(), play, side="right"))


class SessionFile:
    """A Parquet file of `tracks`, and perhaps `skips` and `session_id`. Raises `UserError` for any other."""

    def __init__(self, path: Path, view: View):
        """`view` tells which strengths count as skipped."""
        self.path, self._view = path, view
        try:
            require_regular_file(path)
            with pq.ParquetFile(path) as parquet:
                schema, self.sessions = parquet.schema_arrow, parquet.metadata.num_rows
        except DAMAGED as error:
            raise UserError(f"{path} cannot be read ({brief(error)}): expected a Parquet file of sessions") from error
        self._columns = [name for name in ("tracks", "skips", "session_id") if name in schema.names]
        self._check(schema)
        self.name_type = schema.field("session_id").type if "session_id" in self._columns else None
        """Arrow's type of `session_id`; None without that column."""

    def chunks(self, sessions: int) -> Iterator[Chunk]:
        """At most so many sessions at a time."""
        first = 0
        try:
            with pq.ParquetFile(self.path) as parquet:
                for batch in parquet.iter_batches(sessions, columns=self._columns, use_threads=False):
                    yield self._chunk(first, batch)
                    first += len(batch)
        except DAMAGED as error:
            raise UserError(
                f"{self.path} from row {first} on cannot be read ({brief(error)}): write it again"
            ) from error

    def _check(self, schema: pa.Schema) -> None:
        for name in self._columns:
            if schema.names.count(name) > 1:
                raise UserError(f"{self.path} has more than one column '{name}': leave one")
        if "tracks" not in self._columns:
            raise UserError(f"{self.path} has no column 'tracks': expected a list of track ids in each row")
        self._check_lists(schema, "tracks", "track ids as text", lambda kind: kind in _TEXT)
        if "skips" in self._columns:
            wanted = f"true or false, or strengths 0..{STRENGTHS}"
            self._check_lists(
                schema, "skips", wanted, lambda kind: pa.types.is_boolean(kind) or pa.types.is_integer(kind)
            )
        if "session_id" in self._columns and pa.types.is_nested(kind := schema.field("session_id").type):
            raise UserError(f"{self.path}: column 'session_id' is {brief(kind)}: expected one value in each row")

    def _check_lists(self, schema: pa.Schema, name: str, wanted: str, fits) -> None:
        kind = schema.field(name).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not fits(kind.value_type):
            raise UserError(f"{self.path}: column '{name}' is {brief(kind)}: expected lists of {wanted}")

    def _chunk(self, first: int, batch: pa.RecordBatch) -> Chunk:
        lengths_S, tracks_P = self._lists(first, batch, "tracks")
        tracks_P = tracks_P.cast(pa.large_string())
        self._refuse(first, lengths_S == 0, "tracks", "is an empty session: leave such rows out")
        self._refuse(first, lengths_S > MOST_PLAYS, "tracks", f"has more than {MOST_PLAYS} tracks: cut it")
        skipped_P = np.zeros(len(tracks_P), dtype=bool)
        if "skips" in self._columns:
            skip_lengths_S, skips_P = self._lists(first, batch, "skips")
            self._refuse(first, skip_lengths_S != lengths_S, "skips", "has not as many places as 'tracks'")
            skipped_P = skips_P.to_numpy(zero_copy_only=False)
            if skipped_P.dtype != bool:
                wrong_P = (skipped_P < 0) | (skipped_P > STRENGTHS)
                self._refuse(first, _any(wrong_P, lengths_S), "skips", f"holds a strength outside 0..{STRENGTHS}")
                skipped_P = self._view.skipped(skipped_P)
        names_S = batch["session_id"] if self.name_type is not None else None
        return Chunk(first, names_S, lengths_S, tracks_P, skipped_P)

    def _lists(self, first: int, batch: pa.RecordBatch, name: str) -> tuple[np.ndarray, pa.Array]:
        """Lengths int64 [S] and values [P] of a column without a null, which damage may have left in any disorder."""
        column = batch[name]
        column.validate(full=True)
        self._refuse(first, column.is_null().to_numpy(zero_copy_only=False), name, "is null")
        values = column.flatten()
        lengths_S = np.diff(column.offsets.to_numpy()).astype(np.int64)
        nulls_P = values.is_null().to_numpy(zero_copy_only=False)
        self._refuse(first, _any(nulls_P, lengths_S), name, "has an empty place")
        return lengths_S, values

    def _refuse(self, first: int, wrong_S: np.ndarray, name: str, trouble: str) -> None:
        if wrong_S.any():
            raise UserError(f"{self.path}, row {first + int(wrong_S.argmax())} (counted from 0): '{name}' {trouble}")

    def refuse_track(self, chunk: Chunk, play: int) -> None:
        """Raises `UserError` for a track that is unknown."""
        raise UserError(
            f"{self.path}, row {chunk.row_of(play)} (counted from 0): 'tracks' holds "
            f"{shown(chunk.tracks_P[play].as_py())}, which the export has not: take it out, or go on without such "
            "tracks by --unknown drop"
        )


def _any(wrong_P: np.ndarray, lengths_S: np.ndarray) -> np.ndarray:
    """bool [S]: the sessions that hold a wrong play."""
    counts = np.concatenate([[0], wrong_P.cumsum()])
    ends_S = lengths_S.cumsum()
    return counts[ends_S] > counts[ends_S - lengths_S]
