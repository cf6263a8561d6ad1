"""What tracks are called: of all that a log says of a track, or a table beside it, the most frequent."""

from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa

from skipwise.common.console import note, stage
from skipwise.common.errors import UserError
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.prepare.config import NULLS, PrepareConfig
from skipwise.datapipes.prepare.log_files import files_of
from skipwise.datapipes.prepare.name_options import LONGEST_NAME
from skipwise.datapipes.prepare.read_rows import read, schema_of
from skipwise.datapipes.prepare.sources import inspect
from skipwise.datapipes.prepare.staging import write_rows

UNSEEN = r"[\p{Z}\p{Cc}\x{202A}-\x{202E}\x{2066}-\x{2069}]+"
TIDY = f"""
CREATE MACRO tidy(x) AS trim(regexp_replace(x, '{UNSEEN}', ' ', 'g'));
CREATE MACRO short(x) AS
    CASE WHEN length(x) > {LONGEST_NAME} THEN left(x, {LONGEST_NAME - 1}) || '…' ELSE x END;
"""
"""One line of printable text: blanks, line breaks, control characters and turns of direction become single blanks."""


def count_names(engine: duckdb.DuckDBPyConnection, config: PrepareConfig, rows: str, folder: Path) -> None:
    """Writes how many of the rows say each name of a track, a file for each column of names, after `number_texts`."""
    for role in {} if config.tracks else config.named_columns:
        counts = (
            f"SELECT track, {role}, count(*) AS said FROM {rows} SEMI JOIN tracks ON track = tracks.id GROUP BY ALL"
        )
        write_rows(engine, counts, folder / said(role))


def said(role: str) -> str:
    """Returns the name of the file that `count_names` writes for a column."""
    return f"said-{role}.parquet"


def name_tracks(
    engine: duckdb.DuckDBPyConnection, config: PrepareConfig, buckets: list[Path], scratch: Path
) -> dict[str, str]:
    """Makes a table for each column of names, of `code` and `value`, from what `count_names` wrote in the folders
    `buckets`, once there is the table `tracks`.

    Returns the tables, by the column's name in the dataset. A track has the value that most rows say, of equally
    frequent ones the first in text order; rows of bad plays count too.
    """
    if not config.names:
        return {}
    engine.execute(TIDY).fetchall()
    beside = table_beside(engine, config, scratch) if config.tracks else None
    tables = {}
    for role, name in config.named_columns.items():
        tables[name] = f"names_{role}"
        rows = f"(SELECT track, {role}, 1 AS said FROM {beside})"
        if beside is None:
            rows = parquet(*[folder / said(role) for folder in buckets])
        engine.execute(f"""
            CREATE TABLE names_{role} AS SELECT code, short(value) AS value, choices FROM (
                SELECT code, value, count(*) OVER (PARTITION BY code) AS choices,
                    row_number() OVER (PARTITION BY code ORDER BY said DESC, value) AS place
                FROM (
                    SELECT code, tidy({role}) AS value, sum(said) AS said
                    FROM (SELECT track, {role}, sum(said) AS said FROM {rows} GROUP BY ALL) AS of_rows
                        JOIN tracks ON of_rows.track = tracks.id
                    GROUP BY ALL)
                WHERE value <> '')
            WHERE place = 1""").fetchall()
        counts = f"count_if(choices > 1), count_if(length(value) = {LONGEST_NAME} AND value LIKE '%…')"
        counts += r", count_if(regexp_matches(value, '\\x[89a-f][0-9a-f]'))"
        ((several, cut, escaped),) = engine.execute(f"SELECT {counts} FROM names_{role}").fetchall()
        if several:
            note(f"{several:,} tracks have more than one {name}: each gets the one that most rows say")
        if escaped:
            where = f"{config.tracks}: " if config.tracks else ""
            note(
                f"warning: {where}{escaped:,} tracks have a {name} that is not UTF-8, in which other bytes stand as "
                f"\\xe9: convert the file, as with iconv -f latin1 -t utf-8"
            )
        if cut:
            note(f"{cut:,} tracks have a {name} of more than {LONGEST_NAME} characters: it is cut")
    return tables


def table_beside(engine: duckdb.DuckDBPyConnection, config: PrepareConfig, scratch: Path) -> str:
    """Reads `config.tracks`; returns the SQL of its rows."""
    assert config.tracks is not None
    if not config.tracks.is_file():
        raise UserError(f"{config.tracks} is no file: name one table of tracks with --tracks")
    (log,) = files_of(config.tracks)  # refuses an unknown format
    source, target = (
        inspect(log, replace(config, columns=config.tracks_columns, delimiter=None)),
        scratch / "names.parquet",
    )
    with stage("reading", source.path.stat().st_size, "bytes") as advance:
        engine.register(
            "incoming",
            pa.RecordBatchReader.from_batches(schema_of(source), read(source, advance, config.null or NULLS)),
        )
        columns = ", ".join(f"left({role}, {LONGEST_NAME + 1}) AS {role}" for role in config.names)
        write_rows(engine, f"SELECT track, {columns} FROM incoming", target)
    ((unknown, known),) = engine.execute(f"""
        SELECT count_if(code IS NULL), count(code) FROM {parquet(target)} LEFT JOIN tracks ON track = tracks.id
        """).fetchall()
    if unknown:
        note(
            f"{config.tracks}: {unknown:,} rows are of no track of the log and are ignored, {known:,} are of its tracks"
        )
    return parquet(target)
