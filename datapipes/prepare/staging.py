"""The rows of all files, parsed and checked one by one, in a scratch directory; and codes for their tracks."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from skipwise.common.console import stage
from skipwise.common.errors import UserError
from skipwise.common.tables import count_rows
from skipwise.datapipes.exact_files import parquet, write, write_apart
from skipwise.datapipes.prepare.column_roles import CONTEXT, FLAGS, NAMED, WORDS
from skipwise.datapipes.prepare.config import NULLS, PrepareConfig
from skipwise.datapipes.prepare.given_vocabulary import Known
from skipwise.datapipes.prepare.log_places import FilePlaces
from skipwise.datapipes.prepare.log_source import Source
from skipwise.datapipes.prepare.name_options import LONGEST_NAME, is_name
from skipwise.datapipes.prepare.places import Reading, reading_of
from skipwise.datapipes.prepare.read_rows import read, schema_of
from skipwise.datapipes.prepare.row_checks import FAULTS, REASONS, STOP, policies, row_error
from skipwise.datapipes.prepare.row_condition import condition_of, failed, met, types_of
from skipwise.datapipes.prepare.skip_rules import strength_of
from skipwise.datapipes.prepare.sources import Log
from skipwise.datapipes.session_files import MOST_VALUES

SESSION_HASH = "md5_number_upper({})"
"""SQL of what orders the sessions of a dataset, before their ids; its ranges are the buckets."""
TRACK_HASH = "md5({})"
"""SQL of what orders tracks, before their ids."""
BUCKET_ROWS = 1 << 14
"""Rows of a row group of a bucket: one of each bucket is in memory."""
HEADS = 8
"""Batches in which a value is looked for that shows how a column of places is read."""
MACROS = r"""
CREATE MACRO missing(x) AS
    CASE WHEN x IS NULL THEN true WHEN ascii(x) BETWEEN 33 AND 126 THEN false
    ELSE NOT regexp_matches(x, '[^\s\x0b\p{Z}]') END;
CREATE MACRO word(x) AS lower(regexp_replace(x, '^[\s\p{Z}]+|[\s\p{Z}]+$', '', 'g'));
CREATE MACRO broken(x) AS contains(x, chr(10)) OR contains(x, chr(13));
CREATE MACRO flag(x) AS
    CASE WHEN x = 'true' THEN true WHEN x = 'false' THEN false WHEN x = '1' THEN true WHEN x = '0' THEN false
    WHEN x IN ('True', 'TRUE', 't', 'T', 'yes', 'Yes', 'YES', 'y', 'Y', '1.0') THEN true
    WHEN x IN ('False', 'FALSE', 'f', 'F', 'no', 'No', 'NO', 'n', 'N', '0.0') THEN false END;
"""

PARSED = {
    **{role: f"flag({role}) AS {role}_flag" for role in ("skip", "kept", *FLAGS, "not_skipped", "premium", "shuffle")},
    **{
        role: f"try_cast({role} AS DOUBLE) AS {role}_value"
        for role in ("skip_strength", "rating", "played", "duration")
    },
    "hour_of_day": "try_cast(hour_of_day AS TINYINT) AS hour",
}
"""SQL of one more column for each of these roles, which the checks and the next expressions use."""
CONTEXT_VALUES = {
    **{role: f"nullif({role}, '')" for role in (*CONTEXT, *NAMED)},
    "hour_of_day": "hour",
    "premium": "premium_flag",
    "shuffle": "shuffle_flag",
}
"""SQL for each context column, in the order of `context_names`."""


def connect(config: PrepareConfig, scratch: Path) -> duckdb.DuckDBPyConnection:
    """Returns a DuckDB connection limited to `config.memory`, which spills into `scratch`."""
    engine = duckdb.connect(
        config={
            "memory_limit": f"{config.memory}GiB",
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": False,
        }
    )
    if config.threads:
        engine.execute(f"SET threads = {config.threads}")
    with suppress(duckdb.Error):  # in a notebook without ipywidgets, which has no bar to leave out
        engine.execute("SET enable_progress_bar = false")
    engine.execute("SET TimeZone = 'UTC'")
    engine.execute(MACROS).fetchall()
    return engine


def versions() -> dict[str, str]:
    """Returns the versions of the tools that write the files of a dataset."""
    return {"duckdb": duckdb.__version__, "pyarrow": pa.__version__}


class Staged(NamedTuple):
    """What is known of rows once they are staged."""

    left_out: int
    """How many `config.where` leaves out."""
    dates: bool
    """Whether places are dates and times."""
    places: list[FilePlaces]
    """Of each file, where rows have places."""


def stage_rows(
    engine: duckdb.DuckDBPyConnection, log: Log, numbers: Sequence[int], config: PrepareConfig, folder: Path
) -> Staged:
    """Writes the rows of these files of the log to `folder/rows-*.parquet` with their fault codes; raises for the first
    fault."""
    sources = {number: log[number] for number in numbers}
    wanted = f"fault IN ({', '.join(str(code) for code, policy in policies(config).items() if policy == STOP)})"
    failures: list[BaseException] = []
    left_out, places = Counter[int](), list[FilePlaces]()
    first: Reading | None = None

    def batches(source: Source, advance: Callable[[int], object]) -> Iterator[pa.RecordBatch]:
        try:
            for batch in read(source, advance, config.null or NULLS):
                left_out[0] += len(batch)
                yield batch
        except BaseException as error:
            failures.append(error)
            raise

    taken = "incoming"
    condition = None if config.where is None else condition_of(config.where)
    if condition and sources:
        first_rows = next(read(log[0], lambda _: None, config.null or NULLS))
        typed = log[0].leaves if log[0].format == "parquet" else {}
        taken = met(condition, types_of(condition, typed, first_rows))
    with stage("reading", sum(log.sizes[number] for number in numbers), "bytes") as advance:
        for number, source in sources.items():
            target = folder / f"rows-{number:05}.parquet"
            arriving = batches(source, advance)
            reading = Reading()
            if "order" in source.roles:
                heads, found = head_of_places(engine, arriving, config)
                arriving = chain(heads, arriving)
                # One column has one kind: values of the other are bad rows.
                first = first or reading_before(engine, log, number, config) or found
                reading = found if found and first and found.dates == first.dates else first or reading
            incoming = pa.RecordBatchReader.from_batches(schema_of(source), arriving)
            engine.register("incoming", incoming)
            try:
                write_rows(engine, parsed_rows(source, number, config, reading, taken), target)
            except duckdb.Error as error:
                if not failures and condition and isinstance(error, duckdb.DataError | duckdb.ProgrammingError):
                    raise failed(condition, error) from None
                raise (failures[0] if failures else error) from None
            left_out[0] -= count_rows(target)
            bad = f"SELECT row, fault FROM {parquet(target)} WHERE {wanted} ORDER BY row NULLS FIRST LIMIT 1"
            for row, code in engine.execute(bad).fetchall():
                raise row_error(source, row, FAULTS[code - 1])
            if "order" in source.roles:
                places.append(FilePlaces.of(engine, number, parquet(target), config, reading.dates))
    dates = first is not None and first.dates
    if dates and config.in_time_unit and config.time_unit is not None:
        raise UserError(
            f"{log[0].path}: {log[0].roles['order']} holds dates and times, which need no unit: leave --time-unit out"
        )
    return Staged(left_out[0], dates, places)


def head_of_places(
    engine: duckdb.DuckDBPyConnection, arriving: Iterator[pa.RecordBatch], config: PrepareConfig
) -> tuple[list[pa.RecordBatch], Reading | None]:
    """Takes batches until one shows how a column of places is read, `HEADS` at most."""
    heads: list[pa.RecordBatch] = []
    found = None
    while found is None and len(heads) < HEADS and (head := next(arriving, None)) is not None:
        heads.append(head)
        found = reading_of(engine, head["order"], config)
    return heads, found


def reading_before(engine: duckdb.DuckDBPyConnection, log: Log, number: int, config: PrepareConfig) -> Reading | None:
    """Returns how places are read in the first file before this one that shows it."""
    earlier = (read(log[before], lambda _: None, config.null or NULLS) for before in range(number))
    return next((found for rows in earlier if (found := head_of_places(engine, rows, config)[1])), None)


def split_rows(engine: duckdb.DuckDBPyConnection, staged: Path, folder: Path, num_shards: int) -> None:
    """Writes the rows in `staged` to `folder/bucket=*/*.parquet`, each to the bucket of its session.

    Rows without a session are in bucket 0.
    """
    if files := sorted(staged.glob("rows-*.parquet")):
        width = -(-(2**64) // num_shards)
        rows = engine.sql(f"""
            SELECT *, CASE WHEN missing(session) THEN 0 ELSE {SESSION_HASH.format("session")} // {width}::UBIGINT END
                AS bucket
            FROM {parquet(*files)}""")
        write_apart(rows, folder, "bucket", BUCKET_ROWS)


def write_rows(engine: duckdb.DuckDBPyConnection, query: str, target: Path) -> None:
    """Runs a query in a thread, so that ctrl-C stops it at once: DuckDB itself may first finish the file."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: write(engine.sql(query), target, "lz4_raw"))
        try:
            future.result()
        except KeyboardInterrupt:
            engine.interrupt()
            raise


def parsed_rows(source: Source, number: int, config: PrepareConfig, reading: Reading, incoming: str) -> str:
    """Returns the query that parses and checks the rows of `incoming`, a table."""
    roles = source.roles
    parsed = ["*", *(sql for role, sql in PARSED.items() if role in roles)]
    place = "0::BIGINT AS place, 0::BIGINT AS fraction"
    if "order" in roles:
        place = "place, fraction"
        parsed.extend(reading.columns)
    checks = [(code, fault) for code, fault in enumerate(FAULTS, 1) if {fault.role, fault.beside} <= {None, *roles}]
    cases = " ".join(f"WHEN {fault.condition} THEN {code}" for code, fault in checks)
    context = "".join(f", {sql} AS {role}" for role, sql in CONTEXT_VALUES.items() if role in roles)
    context += "".join(f", left({role}, {LONGEST_NAME + 1}) AS {role}" for role in roles if is_name(role))
    return f"""
        SELECT session, track, {number}::INTEGER AS file, row, {place},
            ({strength_of(roles.keys(), config)})::TINYINT AS strength,
            (CASE {cases} ELSE 0 END)::UTINYINT AS fault{context}
        FROM (SELECT {", ".join(parsed)} FROM {incoming})"""


def count_rows_without_session(engine: duckdb.DuckDBPyConnection, rows: str) -> Counter[str]:
    """Returns the number of bad rows without a session, by reason."""
    found = engine.execute(f"SELECT fault, count(*) FROM {rows} WHERE missing(session) GROUP BY fault")
    return Counter({REASONS[code]: count for code, count in found.fetchall()})


def number_texts(
    engine: duckdb.DuckDBPyConnection, rows: str, roles: dict[str, str], known: Known | None
) -> dict[str, list[str]]:
    """Gives texts a number, so that sorting moves small rows.

    Tables `tracks` and `sessions` map an `id` to a `code`, in the order of its MD5; the type `word` lists the values of
    the context columns. Only tracks of good rows are numbered; or, where they are `known`, those of a vocabulary: their
    code is the row. Returns the values of each context column of words; raises `UserError` for more than `MOST_VALUES`.
    """
    texts = [("sessions", "session", "NOT missing(session)", SESSION_HASH.format("id"))]
    if known:
        engine.execute(
            f"""
            CREATE TABLE tracks AS SELECT track_id AS id, row::BIGINT AS code
            FROM {parquet(known.file)} WHERE row < {known.num_tracks}"""
        ).fetchall()
    else:
        texts.append(("tracks", "track", "fault = 0", TRACK_HASH.format("id")))
    for table, column, where, key in texts:
        engine.execute(
            f"""
            CREATE TABLE {table} AS SELECT id, row_number() OVER (ORDER BY {key}, id) - 1 AS code
            FROM (SELECT DISTINCT {column} AS id FROM {rows} WHERE {where})"""
        ).fetchall()
    words = {}
    for role in (role for role in WORDS if role in roles):
        query = f"SELECT DISTINCT {role} FROM {rows} WHERE {role} IS NOT NULL LIMIT {MOST_VALUES + 1}"
        words[role] = sorted(word for (word,) in engine.execute(query).fetchall())
        refuse_many_words(words[role], roles[role])
    every = sorted({"", *chain(*words.values())})
    engine.execute("CREATE TYPE word AS ENUM (SELECT unnest(?::VARCHAR[]))", [every]).fetchall()
    return words


def refuse_many_words(words: Collection[str], column: str) -> None:
    """Raises `UserError` for a context column of more values than `MOST_VALUES`."""
    if len(words) > MOST_VALUES:
        raise UserError(
            f"column '{column}' has more than {MOST_VALUES:,} values: expected few categories; group them, or leave it "
            f"out of --context"
        )
