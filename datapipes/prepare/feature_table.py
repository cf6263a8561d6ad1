"""The table of `--track-features`, read by DuckDB: its ids, and what kind each of its columns is."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from skipwise.common.console import note
from skipwise.common.errors import UserError, brief
from skipwise.common.tables import open_table
from skipwise.datapipes.exact_files import csv, parquet, quoted
from skipwise.datapipes.prepare.config import NULLS, PrepareConfig
from skipwise.datapipes.prepare.feature_options import MOST_FEATURES
from skipwise.datapipes.track_features import Kind

TABLE = "features"
"""Of the engine: `id` and the columns, one row a track."""
_UUID = r"regexp_replace(lower(hex({})), '(.{{8}})(.{{4}})(.{{4}})(.{{4}})(.{{12}})', '\1-\2-\3-\4-\5')"
_TEXTS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_NUMBERS = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    *("FLOAT", "DOUBLE"),
)


@dataclass(frozen=True)
class Column:
    """A column that is taken."""

    name: str
    kind: Kind
    values: str = ""
    """Of `values`: SQL of the list of its texts."""


def read_table(engine: duckdb.DuckDBPyConnection, config: PrepareConfig) -> list[Column]:
    """Makes `TABLE` of the file; returns the columns to take, none where no file is given.

    Raises `UserError` for a file that is no table, lacks the ids, has a track twice, or a column of another kind.
    """
    path = config.track_features
    if path is None:
        return []
    try:
        engine.execute(f"CREATE VIEW features_file AS SELECT * FROM {_rows_of(path, config)}").fetchall()
        types = dict(row[:2] for row in engine.execute("DESCRIBE features_file").fetchall())
        identity = _identity(path, types, config)
        names = config.features or tuple(name for name in types if name != identity)
        columns = [column_of(path, name, types, config) for name in names]
        if not 1 <= len(columns) <= MOST_FEATURES:
            raise UserError(f"{path} has {len(columns)} columns beside the id: name 1 to {MOST_FEATURES} by --features")
        text = _text_of_ids(path, identity, str(types[identity]))
        engine.execute(f"""
            CREATE TABLE {TABLE} AS SELECT {text} AS id, {", ".join(map(quoted, names))}
            FROM features_file WHERE NOT missing({text})""").fetchall()
        ((rows, known),) = engine.execute(
            f"SELECT (SELECT count(*) FROM features_file), (SELECT count(*) FROM {TABLE})"
        ).fetchall()
    except duckdb.Error as error:
        if isinstance(error, duckdb.OutOfMemoryException | duckdb.InterruptException):
            raise
        raise UserError(f"{path} cannot be read as a table of tracks ({brief(error)}): mend or convert it") from None
    if other := [name for name in config.feature_values if name not in names]:
        raise UserError(f"--feature-values {other[0]}: no such column is taken from {path} ({', '.join(names)})")
    if not known:
        raise UserError(f"{path} has {rows:,} rows, none of them with a track id in '{identity}': fill in that column")
    if known < rows:
        note(f"{path}: {rows - known:,} of {rows:,} rows have no track id in '{identity}' and are left out")
    for column in columns:
        _warn_of_texts(engine, path, column.name, str(types[column.name]), config)
    twice = engine.execute(f"SELECT id, count(*) FROM {TABLE} GROUP BY id HAVING count(*) > 1 ORDER BY id LIMIT 1")
    for track, count in twice.fetchall():
        raise UserError(
            f"{path} has {count} rows of track '{track}': give each track one row, with its values in a list"
        )
    return columns


def column_of(path: Path, name: str, types: dict[str, str], config: PrepareConfig) -> Column:
    """What a column is read as, by its type."""
    if name not in types:
        raise UserError(f"{path} has no column '{name}' (its columns are {', '.join(types)}): correct --features")
    kind, sql = str(types[name]), quoted(name)
    several, one = kind.endswith("]"), kind.partition("[")[0]
    number = one in _NUMBERS or one.startswith("DECIMAL")
    if kind.count("[") > 1 or not (number or one in ("VARCHAR", "BOOLEAN") or one.startswith("ENUM")):
        raise UserError(
            f"{path}: column '{name}' holds {kind}, expected numbers, texts, flags, or lists of numbers or texts: "
            "convert it, or leave it out of --features"
        )
    if number and name not in config.feature_values:
        return Column(name, "vector" if several else "number")
    if several:
        return Column(name, "values", f"{sql}::VARCHAR[]")
    if config.feature_separator is None or one != "VARCHAR":
        return Column(name, "values", f"[{sql}::VARCHAR]")
    separator = config.feature_separator.replace("'", "''")
    return Column(name, "values", f"string_split({sql}, '{separator}')")


def note_tracks(engine: duckdb.DuckDBPyConnection, config: PrepareConfig, log: str) -> None:
    """Says how many tracks of the log the table has, after `merge_tracks`; `log`: SQL of the `id`s of its good rows.

    Raises `UserError` where it has none.
    """
    if config.track_features is None:
        return
    ((both, known, given),) = engine.execute(f"""
        SELECT (SELECT count(*) FROM {TABLE} SEMI JOIN {log} USING (id)),
            (SELECT count(*) FROM tracks), (SELECT count(*) FROM {TABLE})""").fetchall()
    if not both:
        ((log, table),) = engine.execute(
            f"SELECT (SELECT min(id) FROM {log}), (SELECT min(id) FROM {TABLE})"
        ).fetchall()
        raise UserError(
            f"{config.track_features} has none of the log's tracks: the log has ids such as '{log}', the table such as "
            f"'{table}'; write them as the log does, in a column named as --track or track_id"
        )
    if config.vocabulary:
        note(f"{config.track_features}: rows of tracks that --vocabulary lacks are ignored")
        return
    of_log = known - (given - both)
    note(
        f"{config.track_features}: {both:,} of the log's {of_log:,} tracks, and {given - both:,} that it does not play"
    )


def _rows_of(path: Path, config: PrepareConfig) -> str:
    if not path.is_file():
        raise UserError(f"{path} is no file: name one table of tracks with --track-features")
    if path.name.endswith(".parquet"):
        return parquet(path)
    if path.name.endswith(_TEXTS):
        return csv(path, config.null if config.null is not None else NULLS)
    raise UserError(f"{path}: --track-features must end in .parquet, {', '.join(_TEXTS[:3])} or one of these and .gz")


def _identity(path: Path, types: dict[str, str], config: PrepareConfig) -> str:
    wanted = [config.track] if isinstance(config.track, str) else []
    for name in (*wanted, "track_id"):
        if name in types:
            return name
    ragged = "; its rows must have as many fields as its first line" if path.name.endswith(_TEXTS) else ""
    raise UserError(
        f"{path} has no column '{(*wanted, 'track_id')[0]}' (its columns are {', '.join(types)}): give its column of "
        f"track ids that name, or track_id{ragged}"
    )


def _text_of_ids(path: Path, identity: str, kind: str) -> str:
    """SQL of the ids as text; sixteen bytes are a UUID, as in a log."""
    if kind == "BLOB" and path.name.endswith(".parquet"):
        with open_table(path) as table:
            if table.schema.field(identity).type == pa.binary(16):
                return _UUID.format(quoted(identity))
    return f"{quoted(identity)}::VARCHAR"


def _warn_of_texts(engine: duckdb.DuckDBPyConnection, path: Path, name: str, kind: str, config: PrepareConfig) -> None:
    """Says so where texts look like numbers, all but a few, or like lists: they are read as categories."""
    if kind != "VARCHAR" or name in config.feature_values:
        return
    sql = quoted(name)
    number, text = f"try_cast({sql} AS DOUBLE) IS NOT NULL", f"{sql} IS NOT NULL AND NOT missing({sql})"
    ((known, numbers, lists, other),) = engine.execute(rf"""
        SELECT count(*), count_if({number}), count_if(regexp_matches({sql}, '^\s*\[.*\]\s*$')),
            min({sql}) FILTER (NOT {number}) FROM {TABLE} WHERE {text}""").fetchall()
    if 9 * (known - numbers) <= numbers < known:
        note(
            f"warning: {path}: '{name}' has {numbers:,} numbers and {known - numbers:,} other texts, such as "
            f"'{other[:40]}', and is read as categories: correct these, or confirm it by --feature-values {name}"
        )
    elif lists and 2 * lists >= known:
        note(
            f"warning: {path}: '{name}' looks like lists written as text, each of which is read as one category: write "
            "the table as Parquet with lists, or texts with --feature-separator"
        )
