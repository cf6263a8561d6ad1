"""The tracks of all buckets as one vocabulary: each has one code and, where its sessions are written, one row."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.tables import count_rows, open_table, table_writer
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.manifest import VOCABULARY
from skipwise.datapipes.prepare.choose_sessions import NO_SPLIT
from skipwise.datapipes.prepare.feature_table import TABLE
from skipwise.datapipes.prepare.given_vocabulary import Known
from skipwise.datapipes.prepare.staging import TRACK_HASH

BLOCK_ROWS = 1 << 20


def merge_tracks(
    engine: duckdb.DuckDBPyConnection, buckets: Sequence[Path], known: Known | None, featured: bool, scratch: Path
) -> list[np.ndarray]:
    """Makes the table `tracks` of `id` and `code`, in the order of the ids' MD5, or in that of the `known` rows.

    `buckets`: for each, a file of its ids by the codes that they have there; `featured`: the tracks of the table of
    features are among them. Returns from the codes of each bucket to those of the table: int32, kept in a file in
    `scratch`.
    """
    if known:
        engine.execute(f"""
            CREATE TABLE tracks AS SELECT track_id AS id, row::BIGINT AS code FROM {parquet(known.file)}
            WHERE row < {known.num_tracks}""").fetchall()
        return [np.arange(known.num_tracks, dtype=np.int32)] * len(buckets)
    if len(buckets) == 1 and not featured:
        engine.execute(f"""
            CREATE TABLE tracks AS SELECT id, file_row_number AS code
            FROM {parquet(*buckets, options=", file_row_number = true")}""").fetchall()
        return [np.arange(count_rows(buckets[0]), dtype=np.int32)]
    more = f"UNION SELECT id FROM {TABLE}" if featured else ""
    engine.execute(f"""
        CREATE TABLE tracks AS SELECT id, row_number() OVER (ORDER BY {TRACK_HASH.format("id")}, id) - 1 AS code
        FROM (SELECT DISTINCT id FROM {parquet(*buckets)} {more})""").fetchall()
    sizes = [count_rows(file) for file in buckets]
    starts = np.cumsum([0, *sizes]).tolist()
    places = " UNION ALL ".join(
        f"SELECT id, file_row_number + {start} AS place FROM {parquet(file, options=', file_row_number = true')}"
        for file, start in zip(buckets, starts, strict=False)
    )
    codes = np.memmap(scratch / "codes", np.int32, "w+", shape=(starts[-1],))
    found = engine.sql(f"SELECT place, code FROM ({places}) JOIN tracks USING (id)")
    for batch in found.to_arrow_reader(BLOCK_ROWS):
        codes[batch["place"].to_numpy()] = batch["code"].to_numpy()
    return np.split(codes, starts[1:-1])


def count_plays(engine: duckdb.DuckDBPyConnection, staged: dict[Path, np.ndarray], split_S: np.ndarray) -> np.ndarray:
    """int64 [num_codes]: how often each track is in the sessions that are not `NO_SPLIT`.

    `staged`: from the sessions of each bucket to the codes of its tracks in the table `tracks`.
    """
    ((num_codes,),) = engine.execute("SELECT count(*) FROM tracks").fetchall()
    counts = np.zeros(num_codes, dtype=np.int64)
    done = 0
    for file, code in staged.items():
        here = np.zeros(len(code), dtype=np.int64)
        with open_table(file) as table:
            for batch in table.batches(BLOCK_ROWS >> 4, ["tracks"]):
                chosen = split_S[done : done + len(batch)] != NO_SPLIT
                done += len(batch)
                tracks = batch["tracks"] if chosen.all() else batch["tracks"].filter(pa.array(chosen))
                np.add.at(here, tracks.flatten().to_numpy(), 1)
        counts[code] += here
    return counts


def write_vocabulary(
    engine: duckdb.DuckDBPyConnection, counts: np.ndarray, wanted: str, names: dict[str, str], result: Path
) -> tuple[np.ndarray, str, dict[str, int]]:
    """Writes the tracks of which the SQL `wanted` is true (`plays.count`: in the chosen sessions), and their names.

    `counts`: int64 [num_codes], the plays of each. Returns from codes to rows (int32), the hash of the ids, and how
    many tracks have each of the names.
    """
    values = "".join(f", {table}.value AS {table}" for table in names.values())
    joins = " ".join(f"LEFT JOIN {table} USING (code)" for table in names.values())
    played = np.flatnonzero(counts)
    engine.register("plays", pa.table({"code": played, "count": counts[played]}))
    found = engine.sql(f"""
        SELECT id AS track_id, code, coalesce(plays.count, 0) AS count{values}
        FROM tracks LEFT JOIN plays USING (code) {joins} WHERE {wanted} ORDER BY code""")
    columns = {"track_id": pa.string(), "row": pa.int32(), "count": pa.int64(), **dict.fromkeys(names, pa.string())}
    rows, digest, named = np.zeros(len(counts), np.int32), hashlib.sha256(), dict.fromkeys(names, 0)
    with table_writer(result / VOCABULARY, pa.schema(columns), compression="zstd") as writer:
        row = 0
        for batch in found.to_arrow_reader(BLOCK_ROWS):
            here = np.arange(row, row + len(batch), dtype=np.int32)
            rows[batch["code"].to_numpy()] = here
            table = pa.table(
                {name: pa.array(here) if name == "row" else batch[names.get(name, name)] for name in columns}
            )
            writer.write_table(table.cast(pa.schema(columns)), BLOCK_ROWS)
            digest.update("\n".join([*batch["track_id"].to_pylist(), ""]).encode())
            named = {name: named[name] + len(batch) - batch[of].null_count for name, of in names.items()}
            row += len(batch)
    return rows, digest.hexdigest(), named
