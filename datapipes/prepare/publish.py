"""Writes the sessions that passed as the files of a dataset directory."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterator
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
BATCH = 16 * SESSIONS_PER_ROW_GROUP


class Parts:
    """Writes the session files row group by row group, and counts sessions, plays and skips."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.sessions: dict[str, int] = {}
        self.lengths: set[int] = set()
        self.checksums: dict[str, list[str]] = {}
        self.plays = self.skipped = 0
        self._name = ""
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Writes a row group of at most 4096 sessions; starts the next file when one is full."""
        if self._writer is None or self.sessions[self._name] == SESSIONS_PER_PART:
            self.close()
            self._name = f"part-{len(self.sessions):05}.parquet"
            self.sessions[self._name], self.checksums[self._name] = 0, []
            self._writer = pq.ParquetWriter(self.directory / self._name, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=SESSIONS_PER_ROW_GROUP)
        self.sessions[self._name] += len(table)
        tracks, skips = (table[name].combine_chunks() for name in ("tracks", "skips"))
        rows = Rows(tracks.value_lengths().to_numpy(), tracks.flatten().to_numpy(), skips.flatten().to_numpy())
        self.checksums[self._name].append(checksum(rows))
        self.lengths.update(np.unique(rows.lengths).tolist())
        self.plays += len(rows.skips)
        self.skipped += int(np.count_nonzero(counts_as_skipped(rows.skips)))

    def close(self) -> None:
        """Finishes the file that is open."""
        if self._writer is not None:
            self._writer.close()


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
    chosen = None
    if config.sample is not None and config.sample < sessions:
        chosen = draw_sample(engine, staged, config)
        dropped_sessions["not in the sample"] = sessions - len(chosen)
        sessions = len(chosen)
    parts = Parts(result / SESSIONS)
    counts = count_plays(engine, staged, chosen, sessions)
    words = pa.array(engine.execute("SELECT enum_range(NULL::word)").fetchall()[0][0], pa.string())
    rows = (np.cumsum(counts > 0) - 1).astype(np.int32)
    with stage("writing", sessions, "sessions") as advance:
        try:
            for group in row_groups(read_chosen(staged, chosen)):
                parts.write(finished(group, rows, words))
                advance(len(group))
        finally:
            parts.close()
    manifest = Manifest(
        counts={"sessions": sessions, "plays": parts.plays, "tracks": int(np.count_nonzero(counts))},
        session_lengths={"min": min(parts.lengths), "max": max(parts.lengths)},
        skip_share=round(parts.skipped / parts.plays, 6),
        context_columns=[name for name in group.schema.names if name not in ("session_id", "tracks", "skips")],
        parts=parts.sessions,
        checksums=parts.checksums,
        vocabulary_hash=write_vocabulary(engine, counts, result),
        sources=[{"file": source.path.name, "bytes": source.path.stat().st_size} for source in sources],
        options=config.contents(),
        dropped_sessions=dict(dropped_sessions),
        dropped_rows=dict(dropped_rows),
        versions={"python": platform.python_version(), "duckdb": duckdb.__version__, "pyarrow": pa.__version__},
    )
    manifest.write(result)
    return manifest


def count_plays(
    engine: duckdb.DuckDBPyConnection, staged: Path, chosen: np.ndarray | None, sessions: int
) -> np.ndarray:
    """Returns int64 counts by track code: plays in the chosen sessions."""
    tracks = engine.execute("SELECT count(*) FROM tracks").fetchall()[0][0]
    counts = np.zeros(tracks, dtype=np.int64)
    with stage("counting", sessions, "sessions") as advance:
        for batch in read_chosen(staged, chosen, ["tracks"]):
            counts += np.bincount(batch["tracks"].combine_chunks().flatten().to_numpy(), minlength=tracks)
            advance(len(batch))
    return counts


def finished(table: pa.Table, rows: np.ndarray, words: pa.Array) -> pa.Table:
    """Replaces the codes of tracks by vocabulary rows, and those of context columns by their text."""
    values = {"tracks": pa.array(rows), **{name: words for name in WORDS if name in table.column_names}}
    for name, meaning in values.items():
        lists = table[name].combine_chunks()
        offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), meaning.take(lists.flatten()))
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def write_vocabulary(engine: duckdb.DuckDBPyConnection, counts: np.ndarray, result: Path) -> str:
    """Writes the tracks that are played, in row order, and returns the hash of their ids."""
    tracks = engine.sql("SELECT id FROM tracks ORDER BY code").to_arrow_table()["id"]
    tracks = tracks.filter(pa.array(counts > 0)).cast(pa.string())
    played = counts[counts > 0]
    table = pa.table(
        {"track_id": tracks, "row": pa.array(np.arange(len(played), dtype=np.int32)), "count": pa.array(played)}
    )
    pq.write_table(table, result / VOCABULARY, compression="zstd", row_group_size=1 << 20)
    digest = hashlib.sha256()
    for chunk in table.to_batches(1 << 16):
        digest.update("".join(f"{track}\n" for track in chunk.column("track_id").to_pylist()).encode())
    return digest.hexdigest()


def draw_sample(engine: duckdb.DuckDBPyConnection, staged: Path, config: PrepareConfig) -> np.ndarray:
    """Returns the positions of `config.sample` staged sessions, those with the smallest hash of seed and id."""
    draw = f"""
        SELECT place FROM (
            SELECT file_row_number AS place, session_id FROM read_parquet('{pattern(staged)}', file_row_number = true)
            ORDER BY md5_number_upper('{config.seed}:' || session_id), session_id LIMIT {config.sample}
        ) ORDER BY place"""
    return np.asarray(engine.execute(draw).fetchnumpy()["place"])


def read_chosen(staged: Path, chosen: np.ndarray | None, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yields batches of the staged sessions, those at the positions `chosen` or all."""
    start = 0
    with pq.ParquetFile(staged) as file:
        for batch in file.iter_batches(BATCH, columns=columns):
            table = pa.Table.from_batches([batch])
            if chosen is not None:
                first, last = np.searchsorted(chosen, [start, start + len(batch)])
                table = table.take(pa.array(chosen[first:last] - start))
            start += len(batch)
            if len(table):
                yield table


def row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cuts a stream of tables into row groups, all full but the last."""
    rest = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        while len(rest) >= SESSIONS_PER_ROW_GROUP:
            yield rest.slice(0, SESSIONS_PER_ROW_GROUP).combine_chunks()
            rest = rest.slice(SESSIONS_PER_ROW_GROUP)
    if rest is not None and len(rest):
        yield rest.combine_chunks()
