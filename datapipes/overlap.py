"""Sessions that two datasets of one vocabulary share, joined by DuckDB on disk."""

import tempfile

import duckdb

from skipwise.common.errors import UserError, brief
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.sessions import SessionStore

_PLAYS = "',' || array_to_string(tracks, ',') || ','"
"""SQL of a session's rows as text, in which a part of the session is found as a part of the text."""


def shared_sessions(measured: SessionStore, trained: SessionStore) -> int:
    """How many sessions of `measured` are in `trained`, whatever the options that the two were prepared with.

    Such a session has all tracks of a session of `trained` in the same order, or the id of one and, in a row, all
    tracks of the shorter of the two: one of them may have been cut. Users' sessions (`user#3`) of two logs have equal
    ids and differ. Both stores must have the same vocabulary. Raises `UserError` for files that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="skipwise.") as scratch:
        try:
            with duckdb.connect(config={"temp_directory": scratch}) as engine:
                for name, store in (("measured", measured), ("trained", trained)):
                    engine.execute(
                        f"CREATE TABLE {name} AS SELECT session_id, {_PLAYS} AS plays, md5_number(plays) AS digest "
                        f"FROM {parquet(*store.parts)}"
                    ).fetchall()
                ((count,),) = engine.execute(
                    """SELECT count(*) FROM measured WHERE digest IN (SELECT digest FROM trained)
                    OR session_id IN (SELECT session_id FROM measured AS one JOIN trained USING (session_id)
                        WHERE contains(one.plays, trained.plays) OR contains(trained.plays, one.plays))"""
                ).fetchall()
        except (duckdb.Error, OSError) as error:
            raise UserError(
                f"the sessions of {measured.path} and {trained.path} cannot be compared ({brief(error)}): prepare them "
                "again"
            ) from error
    return int(count)
