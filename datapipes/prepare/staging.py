"""The rows of all files, parsed and checked one by one, in a scratch directory; and codes for their tracks."""

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from skipwise.common.console import stage
from skipwise.datapipes.prepare.config import PER_SECOND, PrepareConfig
from skipwise.datapipes.prepare.read_rows import read, schema_of
from skipwise.datapipes.prepare.row_checks import Fault, row_error, row_faults
from skipwise.datapipes.prepare.sources import CONTEXT, FLAGS, WORDS, Source

MACROS = """
CREATE MACRO missing(x) AS
    CASE WHEN x IS NULL THEN true WHEN strlen(x) > 8 THEN false ELSE lower(trim(x)) IN ('', 'nan', 'null', 'none') END;
CREATE MACRO flag(x) AS
    CASE WHEN x IN ('true', 'True', '1', 'TRUE') THEN true WHEN x IN ('false', 'False', '0', 'FALSE') THEN false END;
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
    engine.execute(MACROS).fetchall()
    return engine


def stage_rows(engine: duckdb.DuckDBPyConnection, sources: list[Source], config: PrepareConfig, scratch: Path) -> None:
    """Writes the rows of every file to `scratch/rows-*.parquet` with their fault codes; raises for the first fault."""
    total = sum(source.path.stat().st_size for source in sources)
    faults = row_faults(sources[0].roles, config)
    with stage("reading", total, "bytes") as advance:
        for number, source in enumerate(sources):
            failures: list[BaseException] = []

            def batches(source: Source = source, failures: list[BaseException] = failures) -> Iterator[pa.RecordBatch]:
                try:
                    yield from read(source, advance)
                except BaseException as error:
                    failures.append(error)
                    raise

            target = scratch / f"rows-{number:05}.parquet"
            engine.register("incoming", pa.RecordBatchReader.from_batches(schema_of(source), batches()))
            try:
                run_query(engine, copy_rows(source, number, faults, config, target))
            except duckdb.Error as error:
                raise (failures[0] if failures else error) from None
            refuse_faults(engine, source, target, faults, config)


def run_query(engine: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    """Runs a query in a thread, so that ctrl-C stops it at once: DuckDB itself may first finish the file."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: engine.execute(query).fetchall())
        try:
            return future.result()
        except KeyboardInterrupt:
            engine.interrupt()
            raise


def copy_rows(source: Source, number: int, faults: list[Fault], config: PrepareConfig, target: Path) -> str:
    """Returns the statement that parses and checks the rows of `incoming`."""
    roles = source.roles
    cases = " ".join(f"WHEN {fault.condition} THEN {code}" for code, fault in enumerate(faults, 1))
    context = "".join(f", {expression} AS {name}" for name, expression in context_of(roles).items())
    return f"""
        COPY (
            SELECT session, track, {number}::INTEGER AS file, row, {"place" if "order" in roles else "0.0"} AS place,
                ({strength_of(roles, config)})::TINYINT AS strength, (CASE {cases} ELSE 0 END)::UTINYINT AS fault
                {context}
            FROM (SELECT * {parsed(roles, config)} FROM incoming)
        ) TO '{quoted(target)}' (FORMAT parquet, COMPRESSION lz4_raw)"""


def parsed(roles: dict[str, str], config: PrepareConfig) -> str:
    """Returns SQL of more columns: `place` (the order as a number), `level` (strength or rating), `hour`, flags."""
    columns = [f"flag({role}) AS {role}_flag" for role in roles if is_flag(role)]
    if "order" in roles:
        factor = PER_SECOND[config.time_unit] if config.gap else 1
        columns.append(
            f"""coalesce(try_cast("order" AS DOUBLE) / {factor}, epoch_us(try_cast("order" AS TIMESTAMP)) / 1e6)"""
            " AS place"
        )
    for role in ("skip_strength", "rating"):
        if role in roles:
            columns.append(f"try_cast({role} AS DOUBLE) AS level")
    if "hour_of_day" in roles:
        columns.append("try_cast(hour_of_day AS TINYINT) AS hour")
    return "".join(f", {column}" for column in columns)


def is_flag(role: str) -> bool:
    """Whether a role's values are booleans."""
    return role in ("skip", *FLAGS, "not_skipped", "premium", "shuffle")


def strength_of(roles: dict[str, str], config: PrepareConfig) -> str:
    """SQL for the skip strength: 0 kept, 1 skipped very briefly in, 2 briefly in, 3 mostly played."""
    if "skip" in roles:
        return "CASE WHEN skip_flag THEN 2 ELSE 0 END"
    if "skip_strength" in roles:
        return "CASE WHEN level IN (0, 1, 2, 3) THEN level ELSE 0 END"
    if "rating" in roles:
        return f"CASE WHEN level < {config.skip_below} THEN 2 ELSE 0 END"
    if "skip_1" in roles:
        return "CASE WHEN skip_1_flag THEN 1 WHEN skip_2_flag THEN 2 WHEN skip_3_flag THEN 3 ELSE 0 END"
    return "0"


def context_of(roles: dict[str, str]) -> dict[str, str]:
    """SQL for each context column that the source has."""
    special = {"hour_of_day": "hour", "premium": "premium_flag", "shuffle": "shuffle_flag"}
    return {role: special.get(role, f"nullif({role}, '')") for role in CONTEXT if role in roles}


def refuse_faults(
    engine: duckdb.DuckDBPyConnection, source: Source, rows: Path, faults: list[Fault], config: PrepareConfig
) -> None:
    """Raises the error of a file's first bad row, unless its session can be dropped."""
    fatal = [code for code, fault in enumerate(faults, 1) if fault.fatal]
    wanted = "fault > 0" if config.on_error == "stop" else f"fault IN {tuple(fatal)}"
    found = engine.execute(
        f"SELECT row, fault FROM '{pattern(rows)}' WHERE {wanted} ORDER BY row NULLS FIRST LIMIT 1"
    ).fetchall()
    for row, code in found:
        raise row_error(source, row, faults[code - 1])


def count_rows_without_session(
    engine: duckdb.DuckDBPyConnection, sources: list[Source], config: PrepareConfig, scratch: Path
) -> Counter[str]:
    """Returns the number of bad rows without a session, by reason."""
    reasons = [fault.reason for fault in row_faults(sources[0].roles, config)]
    found = engine.execute(
        f"SELECT fault, count(*) FROM '{pattern(scratch)}/rows-*.parquet' WHERE missing(session) GROUP BY fault"
    )
    return Counter({reasons[code - 1]: count for code, count in found.fetchall()})


def number_texts(engine: duckdb.DuckDBPyConnection, scratch: Path, roles: dict[str, str]) -> None:
    """Gives texts a number, so that sorting moves small rows.

    Tables `tracks` and `sessions` map an `id` to a `code`, in the order of its MD5; the type `word` lists the values of
    the context columns. Only tracks of good rows are numbered.
    """
    rows = f"'{pattern(scratch)}/rows-*.parquet'"
    for table, column, where, key in (
        ("tracks", "track", "fault = 0", "md5(id)"),
        ("sessions", "session", "NOT missing(session)", "md5_number_upper(id)"),
    ):
        engine.execute(
            f"""
            CREATE TABLE {table} AS SELECT id, row_number() OVER (ORDER BY {key}, id) - 1 AS code
            FROM (SELECT DISTINCT {column} AS id FROM {rows} WHERE {where})"""
        ).fetchall()
    columns = [f"SELECT {role} FROM {rows} WHERE {role} IS NOT NULL" for role in WORDS if role in roles]
    words = " UNION ".join(["SELECT ''", *columns])
    engine.execute(f"CREATE TYPE word AS ENUM (SELECT word FROM ({words}) AS words(word) ORDER BY word)").fetchall()


def quoted(path: Path) -> str:
    """Returns a path as part of an SQL literal, for a file to write."""
    return str(path).replace("'", "''")


def pattern(path: Path) -> str:
    """Returns a path as part of an SQL literal, for files to read, with the wildcards escaped."""
    return re.sub(r"([\[*?])", r"[\1]", quoted(path))
