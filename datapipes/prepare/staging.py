"""The rows of all files, parsed and checked one by one, in a scratch directory; and codes for their tracks."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.behind import behind
from skipwise.common.console import stage
from skipwise.common.errors import UserError
from skipwise.common.tables import table_writer
from skipwise.datapipes.exact_files import parquet, write, write_apart
from skipwise.datapipes.prepare.column_roles import WORDS
from skipwise.datapipes.prepare.config import NULLS, PrepareConfig
from skipwise.datapipes.prepare.given_vocabulary import Known
from skipwise.datapipes.prepare.log_places import FilePlaces
from skipwise.datapipes.prepare.places import Reading, reading_of
from skipwise.datapipes.prepare.read_rows import read
from skipwise.datapipes.prepare.row_checks import FAULTS, REASONS, STOP, policies, row_error
from skipwise.datapipes.prepare.row_condition import Condition, condition_of, failed, met, types_of
from skipwise.datapipes.prepare.row_values import RowValues
from skipwise.datapipes.prepare.sources import Log
from skipwise.datapipes.session_files import MOST_VALUES

SESSION_HASH = "(md5_number({}) & 18446744073709551615::UHUGEINT)::UBIGINT"
"""SQL of what orders the sessions of a dataset, before their ids; its ranges are the buckets. It is `md5_number_upper`,
which takes DuckDB four times as long."""
TRACK_HASH = "md5({})"
"""SQL of what orders tracks, before their ids."""
BUCKET_ROWS = 1 << 14
"""Rows of a row group of a bucket: one of each bucket is in memory."""
LARGEST_DICTIONARY = 1 << 28
"""Bytes of the texts of a row group that are written once: those of any batch."""
FEW_WORDS = 64
"""Values of context columns that are looked up one after the other, which DuckDB does once for each in a row group."""
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
    left_out, places = 0, list[FilePlaces]()
    first: Reading | None = None
    condition = None if config.where is None else condition_of(config.where)
    meets: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None
    if condition and sources:
        first_rows = next(read(log[0], lambda _: None, config.null or NULLS))
        typed = log[0].leaves if log[0].format == "parquet" else {}
        meets = partial(meeting, engine, condition, types_of(condition, typed, first_rows))
    with stage("reading", sum(log.sizes[number] for number in numbers), "bytes") as advance:
        for number, source in sources.items():
            target = folder / f"rows-{number:05}.parquet"
            arriving = read(source, advance, config.null or NULLS, coded=True)
            reading = Reading()
            if "order" in source.roles:
                heads, found = head_of_places(engine, arriving, config)
                arriving = chain(heads, arriving)
                # One column has one kind: values of the other are bad rows.
                first = first or reading_before(engine, log, number, config) or found
                reading = found if found and first and found.dates == first.dates else first or reading
            values = RowValues(engine, number, [*source.roles], reading, config)
            seen = Counter[str]()
            with rows_writer(target, values.schema) as writer, behind() as run:
                for batch in arriving:
                    run(check, batch, values, meets, writer.write_table, seen)
            bad = f"SELECT row, fault FROM {parquet(target)} WHERE {wanted} ORDER BY row NULLS FIRST LIMIT 1"
            for row, code in engine.execute(bad).fetchall() if seen["faults"] else ():
                raise row_error(source, row, FAULTS[code - 1])
            left_out += seen["left out"]
            if "order" in source.roles:
                places.append(FilePlaces.of(engine, number, parquet(target), config, reading.dates))
    dates = first is not None and first.dates
    if dates and config.in_time_unit and config.time_unit is not None:
        raise UserError(
            f"{log[0].path}: {log[0].roles['order']} holds dates and times, which need no unit: leave --time-unit out"
        )
    return Staged(left_out, dates, places)


def check(
    batch: pa.RecordBatch,
    values: RowValues,
    meets: Callable[[pa.RecordBatch], pa.RecordBatch] | None,
    write: Callable[[pa.Table], object],
    seen: Counter[str],
) -> None:
    """Writes the rows of a batch that meet the condition, parsed and checked, and counts the others and the faults.

    To be called in a thread of its own: DuckDB may pass over ctrl-C where it begins a query.
    """
    rows = values.checked(meets(batch) if meets else batch)
    seen.update({"left out": len(batch) - len(rows), "faults": int(np.count_nonzero(rows["fault"].to_numpy()))})
    write(rows)


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


def meeting(
    engine: duckdb.DuckDBPyConnection, condition: Condition, types: dict[str, str], batch: pa.RecordBatch
) -> pa.RecordBatch:
    """Returns the rows of a batch that meet a condition on columns of these types, marked as `met` does."""
    columns = batch.select(["row", "mark", *condition.columns])
    engine.register("incoming", columns.append_column("number", pa.array(np.arange(len(batch)))))
    try:
        found = engine.sql(f"SELECT number, mark FROM {met(condition, types)} ORDER BY number").to_arrow_table()
    except (duckdb.DataError, duckdb.ProgrammingError) as error:
        raise failed(condition, error) from None
    kept = batch.take(found["number"].combine_chunks())
    return kept.set_column(kept.schema.get_field_index("mark"), "mark", found["mark"].combine_chunks())


def rows_writer(target: Path, schema: pa.Schema) -> AbstractContextManager[Any]:
    """Returns the writer of checked rows: each batch is a row group, as its texts are coded by themselves."""
    coded = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return table_writer(
        target,
        schema,
        compression="lz4",
        use_dictionary=coded,
        column_encoding=dict.fromkeys(("file", "row", "place", "fraction"), "DELTA_BINARY_PACKED"),
        write_statistics=["row"],
        dictionary_pagesize_limit=LARGEST_DICTIONARY,
        store_schema=False,
    )


def count_rows_without_session(engine: duckdb.DuckDBPyConnection, rows: str) -> Counter[str]:
    """Returns the number of bad rows without a session, by reason."""
    found = engine.execute(f"SELECT fault, count(*) FROM {rows} WHERE missing(session) GROUP BY fault")
    return Counter({REASONS[code]: count for code, count in found.fetchall()})


def number_texts(
    engine: duckdb.DuckDBPyConnection, rows: str, roles: dict[str, str], known: Known | None
) -> dict[str, list[str]]:
    """Gives texts a number, so that sorting moves small rows.

    Tables `tracks` and `sessions` map an `id` to a `code`, in the order of its MD5; the macro `word_code` gives the
    place of a value among those of all context columns of words. Only tracks of good rows are numbered; or, where they
    are `known`, those of a vocabulary: their code is the row. Returns the values of each context column of words;
    raises `UserError` for more than `MOST_VALUES`.
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
    if len(every) <= FEW_WORDS:
        engine.execute("SET VARIABLE words = ?::VARCHAR[]", [every]).fetchall()
        code = "(list_position(getvariable('words'), x) - 1)::USMALLINT"
    else:
        engine.execute("CREATE TYPE word AS ENUM (SELECT unnest(?::VARCHAR[]))", [every]).fetchall()
        code = "enum_code(x::word)"
    engine.execute(f"CREATE MACRO word_code(x) AS {code}").fetchall()
    return words


def refuse_many_words(words: Collection[str], column: str) -> None:
    """Raises `UserError` for a context column of more values than `MOST_VALUES`."""
    if len(words) > MOST_VALUES:
        raise UserError(
            f"column '{column}' has more than {MOST_VALUES:,} values: expected few categories; group them, or leave it "
            f"out of --context"
        )
