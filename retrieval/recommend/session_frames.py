"""Sessions as Python lists, Arrow, pandas or polars data, to an Arrow table and back; imports neither of the two."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from skipwise.common.errors import UserError, brief
from skipwise.datapipes.session_files import PROFILE
from skipwise.retrieval.recommend.session_columns import COLUMNS

_EXPECTED = (
    "expected a list of track ids, a list of such lists, an Arrow array or table, or a pandas or polars data frame"
)


def is_one_session(sessions: Any) -> bool:
    """Whether this is a list of track ids, and not of sessions."""
    return isinstance(sessions, (list, tuple)) and all(isinstance(one, str) for one in sessions)


def to_table(sessions: Any, skipped: Any = None, names: Sequence[str] = COLUMNS) -> pa.Table:
    """A table with the column `tracks`, and `skips` and `session_id` if any; of a data frame, `names`.

    Raises `UserError` for anything that is not a table of sessions.
    """
    try:
        if isinstance(sessions, (list, tuple)):
            return _listed(sessions, skipped)
        if isinstance(sessions, (pa.Array, pa.ChunkedArray)):
            if not pa.types.is_nested(sessions.type):
                return _listed(sessions.to_pylist(), getattr(skipped, "to_pylist", lambda: skipped)())
            return pa.table({"tracks": sessions} | _skips(skipped))
        if skipped is not None:
            raise UserError("skipped goes with lists and arrays: give a table the column 'skips' instead")
        if type(sessions).__name__ == "DataFrame":  # of pandas or of polars
            return pa.table(sessions[[name for name in names if name in sessions.columns]])
        if isinstance(sessions, (pa.Table, pa.RecordBatch)):
            return pa.table(sessions)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"sessions or skipped cannot be read ({brief(error)}): {_EXPECTED}") from error
    raise UserError(f"sessions is of type {type(sessions).__name__}: {_EXPECTED}")


def with_profile(table: pa.Table, sessions: Any, profile: Any) -> pa.Table:
    """The table of `sessions` with a column of their listeners' profiles; raises `UserError` where these do not fit."""
    if profile is None:
        return table
    if PROFILE in table.column_names:
        raise UserError("profile is given, and the table has a column 'profile' too: leave one out")
    try:
        column = pa.array([profile] if is_one_session(sessions) else profile, pa.list_(pa.string()))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"profile cannot be read ({brief(error)}): expected a list of track ids a session") from error
    if len(column) != len(table):
        raise UserError(f"profile has {len(column)} lists where there are {len(table)} sessions: give one a session")
    return table.append_column(PROFILE, column)


def like(sessions: Any, ranked: pa.Table) -> Any:
    """`ranked`, a table with the columns `tracks` and `scores`, as the kind of data that `sessions` is."""
    if isinstance(sessions, (list, tuple)):
        columns = ranked["tracks"].to_pylist(), ranked["scores"].to_pylist()
        pairs = [list(zip(tracks, scores, strict=True)) for tracks, scores in zip(*columns, strict=True)]
        return pairs[0] if is_one_session(sessions) else pairs
    if type(sessions).__name__ != "DataFrame":
        return ranked
    if hasattr(sessions, "index"):
        return ranked.to_pandas().set_index(sessions.index)
    return type(sessions)(ranked)


def _listed(sessions: Any, skipped: Any) -> pa.Table:
    if not sessions:
        raise UserError("sessions is an empty list: give at least one track id, or at least one session")
    if is_one_session(sessions):
        sessions, skipped = [sessions], None if skipped is None else [skipped]
    elif any(isinstance(session, str) for session in sessions):
        raise UserError("sessions holds both track ids and lists: give one session, or a list for each")
    return pa.table({"tracks": pa.array(sessions, pa.list_(pa.string()))} | _skips(skipped))


def _skips(skipped: Any) -> dict[str, Any]:
    return {} if skipped is None else {"skips": pa.array(skipped)}
