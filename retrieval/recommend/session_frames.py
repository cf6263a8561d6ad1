"""Sessions as Python lists, Arrow, pandas or polars data, to an Arrow table and back.

pandas and polars are never imported here: a caller that passes a frame has imported its library.
"""

import sys
from typing import Any

import pyarrow as pa

from skipwise.common.errors import UserError, brief

_ARRAY = (pa.Array, pa.ChunkedArray)
_EXPECTED = (
    "expected a list of track ids, a list of such lists, an Arrow array or table, or a pandas or polars data frame"
)


def is_one_session(sessions: Any) -> bool:
    """Whether this is a list of track ids, and not of sessions."""
    return isinstance(sessions, (list, tuple)) and all(isinstance(one, str) for one in sessions)


def to_table(sessions: Any, skipped: Any = None) -> pa.Table:
    """A table with the column `tracks`, and `skips` and `session_id` if there are any.

    Raises `UserError` for anything that is not a table of sessions.
    """
    if isinstance(sessions, (list, tuple)):
        if not sessions:
            raise UserError("sessions is an empty list: give at least one track id, or at least one session")
        one = is_one_session(sessions)
        if not one and any(isinstance(session, str) for session in sessions):
            raise UserError("sessions holds both track ids and lists: give one session, or a list for each")
        return _built([sessions] if one else sessions, [skipped] if one and skipped is not None else skipped)
    if isinstance(sessions, _ARRAY):
        if pa.types.is_nested(sessions.type):
            return _built(sessions, skipped)
        return to_table(sessions.to_pylist(), skipped.to_pylist() if isinstance(skipped, _ARRAY) else skipped)
    if skipped is not None:
        raise UserError("skipped goes with lists and arrays: give a table the column 'skips' instead")
    if isinstance(sessions, pa.RecordBatch):
        return pa.Table.from_batches([sessions])
    if isinstance(sessions, pa.Table):
        return sessions
    kind = _library(sessions)
    if kind == "pandas":
        names = [name for name in ("tracks", "skips", "session_id") if name in sessions.columns]
        try:
            return pa.Table.from_pandas(sessions[names], preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise UserError(f"sessions holds a value that Arrow cannot read ({brief(error)}): {_EXPECTED}") from error
    if kind == "polars":
        return sessions.to_arrow()
    raise UserError(f"sessions is of type {type(sessions).__name__}: {_EXPECTED}")


def like(sessions: Any, ranked: pa.Table) -> Any:
    """`ranked`, a table with the columns `tracks` and `scores`, as the kind of data that `sessions` is."""
    if isinstance(sessions, (list, tuple)):
        columns = ranked["tracks"].to_pylist(), ranked["scores"].to_pylist()
        pairs = [list(zip(tracks, scores, strict=True)) for tracks, scores in zip(*columns, strict=True)]
        return pairs[0] if is_one_session(sessions) else pairs
    kind = _library(sessions)
    if kind == "pandas":
        frame = ranked.to_pandas()
        frame.index = sessions.index
        return frame
    if kind == "polars":
        return sys.modules["polars"].from_arrow(ranked)
    return ranked


def _built(tracks: Any, skips: Any) -> pa.Table:
    """A table of two columns, each a list or of Arrow already."""
    try:
        columns = {"tracks": pa.array(tracks, pa.list_(pa.string())) if isinstance(tracks, (list, tuple)) else tracks}
        if skips is not None:
            columns["skips"] = skips if isinstance(skips, _ARRAY) else pa.array(skips)
        return pa.table(columns)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"sessions or skipped cannot be read ({brief(error)}): {_EXPECTED}") from error


def _library(sessions: Any) -> str:
    """The library whose `DataFrame` this is; empty for anything else."""
    library = type(sessions).__module__.partition(".")[0]
    return library if type(sessions).__name__ == "DataFrame" else ""
