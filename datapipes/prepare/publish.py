"""Writes the sessions that passed as the files of a dataset directory."""

import hashlib
import platform
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.common.console import stage
from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import SESSIONS, SESSIONS_PER_ROW_GROUP, VOCABULARY, Manifest
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.sources import WORDS, Source
from skipwise.datapipes.prepare.staging import pattern
from skipwise.datapipes.session_files import Rows, checksum
from skipwise.datapipes.view import counts_as_skipped

SESSIONS_PER_PART = 64 * SESSIONS_PER_ROW_GROUP


def publish(
    engine: duckdb.DuckDBPyConnection,
    sources: list[Source],
    config: PrepareConfig,
    scratch: Path,
    dropped_sessions: Counter[str],
    dropped_rows: Counter[str],
) -> Manifest:
    """Draws the sample, numbers the vocabulary and writes the dataset directory `scratch/result`."""
    staged, result = scratch / "sessions.parquet", scratch / "result"
    sessions = pq.read_metadata(staged).num_rows if staged.exists() else 0
    if sessions == 0:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in (dropped_sessions + dropped_rows).most_common())
        raise UserError(f"no session is left (dropped: {reasons}): loosen the filters or fix the log")
    schema = pq.read_schema(staged)
    if config.sample is not None and config.sample < sessions:
        dropped_sessions["not in the sample"] = sessions - config.sample
        staged, sessions = draw_sample(engine, staged, config), config.sample
    (result / SESSIONS).mkdir(parents=True)
    codes, vocabulary_hash = write_vocabulary(engine, staged, result)
    rows = np.zeros(codes[-1] + 1, dtype=np.int32)
    rows[codes] = np.arange(len(codes))
    words = pa.array(engine.execute("SELECT enum_range(NULL::word)").fetchall()[0][0], pa.string())
    meanings = {"tracks": pa.array(rows), **{name: words for name in WORDS if name in schema.names}}
    parts: dict[str, int] = {}
    checksums: dict[str, list[str]] = {}
    lengths: set[int] = set()
    plays = skipped = 0
    with stage("writing", sessions, "sessions") as advance, pq.ParquetFile(staged) as file:
        groups = (finished(batch, schema, meanings) for batch in file.iter_batches(SESSIONS_PER_ROW_GROUP))
        for first in groups:
            name = f"part-{len(parts):05}.parquet"
            parts[name], checksums[name] = 0, []
            with pq.ParquetWriter(result / SESSIONS / name, first.schema, compression="zstd") as writer:
                for group in chain([first], islice(groups, SESSIONS_PER_PART // SESSIONS_PER_ROW_GROUP - 1)):
                    writer.write_table(group)
                    parts[name] += len(group)
                    tracks, strengths = (group[column].combine_chunks() for column in ("tracks", "skips"))
                    flat = (tracks.value_lengths(), tracks.flatten(), strengths.flatten())
                    written = Rows(*(values.to_numpy() for values in flat))
                    checksums[name].append(checksum(written))
                    lengths.update(written.lengths.tolist())
                    plays += len(written.skips)
                    skipped += int(np.count_nonzero(counts_as_skipped(written.skips)))
                    advance(len(group))
    manifest = Manifest(
        counts={"sessions": sessions, "plays": plays, "tracks": len(codes)},
        session_lengths={"min": min(lengths), "max": max(lengths)},
        skip_share=round(skipped / plays, 6),
        context_columns=[name for name in schema.names if name not in ("session_id", "tracks", "skips")],
        parts=parts,
        checksums=checksums,
        vocabulary_hash=vocabulary_hash,
        sources=[{"file": source.path.name, "bytes": source.path.stat().st_size} for source in sources],
        options=config.contents(),
        dropped_sessions=dict(dropped_sessions),
        dropped_rows=dict(dropped_rows),
        versions={"python": platform.python_version(), "duckdb": duckdb.__version__, "pyarrow": pa.__version__},
    )
    manifest.write(result)
    return manifest


def draw_sample(engine: duckdb.DuckDBPyConnection, staged: Path, config: PrepareConfig) -> Path:
    """Returns a file of `config.sample` of the staged sessions, those with the smallest hash of seed and id."""
    sample = staged.with_name("sample.parquet")
    numbered = f"read_parquet('{pattern(staged)}', file_row_number = true)"
    engine.sql(f"""
        SELECT * EXCLUDE file_row_number FROM {numbered} WHERE file_row_number IN (
            SELECT file_row_number FROM {numbered}
            ORDER BY md5_number_upper('{config.seed}:' || session_id), session_id LIMIT {config.sample}
        ) ORDER BY file_row_number""").write_parquet(str(sample), compression="lz4_raw")
    return sample


def write_vocabulary(engine: duckdb.DuckDBPyConnection, staged: Path, result: Path) -> tuple[np.ndarray, str]:
    """Writes the tracks of the staged sessions, ordered by code; returns their codes and the hash of their ids."""
    played = engine.sql(f"""
        SELECT id AS track_id, code, count FROM tracks JOIN (
            SELECT code, count(*) AS count
            FROM (SELECT unnest(tracks) AS code FROM read_parquet('{pattern(staged)}')) GROUP BY code
        ) USING (code) ORDER BY code""").to_arrow_table()
    rows = pa.array(np.arange(len(played), dtype=np.int32))
    table = pa.table({"track_id": played["track_id"].cast(pa.string()), "row": rows, "count": played["count"]})
    pq.write_table(table, result / VOCABULARY, compression="zstd", row_group_size=1 << 20)
    digest = hashlib.sha256()
    for chunk in table.to_batches(1 << 16):
        digest.update("".join(f"{track}\n" for track in chunk.column("track_id").to_pylist()).encode())
    return played["code"].to_numpy(), digest.hexdigest()


def finished(batch: pa.RecordBatch, schema: pa.Schema, meanings: dict[str, pa.Array]) -> pa.Table:
    """Replaces the codes of tracks by vocabulary rows, and those of context columns by their text."""
    table = pa.Table.from_batches([batch]).cast(schema)  # DuckDB names a sample's lists in another way
    for name, meaning in meanings.items():
        lists = table[name].combine_chunks()
        column = pa.ListArray.from_arrays(lists.offsets, meaning.take(lists.values))
        table = table.set_column(table.column_names.index(name), name, column)
    return table
