"""Writes the sessions that passed as the files of a dataset directory."""

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.console import stage
from skipwise.common.errors import UserError
from skipwise.common.tables import count_rows, open_table, table_writer
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.manifest import SESSIONS, SESSIONS_PER_ROW_GROUP, VOCABULARY, Manifest
from skipwise.datapipes.prepare.choose_sessions import choose_sessions
from skipwise.datapipes.prepare.column_roles import WORDS, context_names
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.feature_table import TABLE
from skipwise.datapipes.prepare.log_source import Source
from skipwise.datapipes.prepare.sessionize import ENDED, SPLIT
from skipwise.datapipes.session_files import Rows, Words, checksum
from skipwise.datapipes.signals import UNKNOWN
from skipwise.datapipes.view import counts_as_skipped

SESSIONS_PER_PART = 64 * SESSIONS_PER_ROW_GROUP


def publish(
    engine: duckdb.DuckDBPyConnection,
    sources: list[Source],
    config: PrepareConfig,
    scratch: Path,
    names: dict[str, str],
    dropped_sessions: Counter[str],
    dropped_rows: Counter[str],
) -> Manifest:
    """Chooses and splits the sessions, numbers the vocabulary and writes the dataset directory `scratch/result`.

    `names`: see `name_tracks`.
    """
    staged, result = scratch / "sessions.parquet", scratch / "result"
    if not staged.exists() or count_rows(staged) == 0:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in (dropped_sessions + dropped_rows).most_common())
        other = ", name another --vocabulary" if config.vocabulary else ""
        raise UserError(f"no session is left (dropped: {reasons}): loosen the filters{other} or fix the log")
    with open_table(staged) as table:
        schema = pa.schema([column for column in table.schema if column.name not in (ENDED, SPLIT)])
    files = choose_sessions(engine, staged, config, dropped_sessions)
    (result / SESSIONS).mkdir(parents=True)
    wanted = "true" if config.vocabulary else "plays.count IS NOT NULL"
    if config.track_features:
        wanted += f" OR tracks.id IN (SELECT id FROM {TABLE})"
    codes, vocabulary_hash, named = write_vocabulary(engine, [*files.values()], wanted, names, result)
    rows = np.zeros(codes[-1] + 1, dtype=np.int32)
    rows[codes] = np.arange(len(codes))
    context = context_names(sources[0].roles)
    words = pa.array(engine.execute("SELECT enum_range(NULL::word)").fetchall()[0][0], pa.string())
    meanings = {"tracks": pa.array(rows), **{name: words for name in WORDS if name in schema.names}}
    sizes = {split: count_rows(file) for split, file in files.items()}
    written: dict[str, Written] = {}
    with stage("writing", sum(sizes.values()), "sessions") as advance:
        for split, file in files.items():
            with open_table(file) as table:
                batches = table.batches(SESSIONS_PER_ROW_GROUP)
                groups = (finished(batch, schema, meanings, context) for batch in batches)
                of = Written(np.zeros(len(codes), dtype=bool), {name: set() for name in context.values()})
                write_sessions(groups, result / SESSIONS, split, of, advance)
                written[split] = of
    plays = sum(split.plays for split in written.values())
    lengths = set().union(*(split.lengths for split in written.values()))
    manifest = Manifest(
        counts={"sessions": sum(sizes.values()), "plays": plays, "tracks": len(codes)},
        session_lengths={"min": min(lengths), "max": max(lengths)},
        skip_share=round(sum(split.skipped for split in written.values()) / plays, 6),
        unknown_share=round(sum(split.unknown for split in written.values()) / plays, 6),
        context_columns=[*context.values()],
        contexts={
            name: sorted(set().union(*(of.values[name] for of in written.values()))) for name in context.values()
        },
        context_checksums={part: of for split in written.values() for part, of in split.context_checksums.items()},
        parts={name: size for split in written.values() for name, size in split.parts.items()},
        checksums={name: of for split in written.values() for name, of in split.checksums.items()},
        vocabulary_hash=vocabulary_hash,
        track_columns=named,
        sources=[{"file": source.path.name, "bytes": source.path.stat().st_size} for source in sources],
        options=config.contents(),
        dropped_sessions=dict(dropped_sessions),
        dropped_rows=dict(dropped_rows),
        versions={"python": platform.python_version(), "duckdb": duckdb.__version__, "pyarrow": pa.__version__},
        **({} if config.split == "last" else split_fields(written)),
    )
    manifest.write(result)
    return manifest


@dataclass
class Written:
    """What the session files of one split hold."""

    heard_U: np.ndarray
    """bool [num_tracks]: tracks that it has."""
    values: dict[str, set[str]]
    """What its training plays say in each context column."""
    context_checksums: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, list[str]] = field(default_factory=dict)
    lengths: set[int] = field(default_factory=set)
    plays: int = 0
    skipped: int = 0
    unknown: int = 0


def write_sessions(
    groups: Iterator[pa.Table], folder: Path, split: str, of: Written, advance: Callable[[int], object]
) -> None:
    """Writes the row groups to `folder/SPLIT-*.parquet`, and what they hold to `of`."""
    for first in groups:
        name = f"{split}-{len(of.parts):05}.parquet"
        of.parts[name], of.checksums[name] = 0, []
        if of.values:
            of.context_checksums[name] = {column: [] for column in of.values}
        with table_writer(folder / name, first.schema, compression="zstd") as writer:
            for group in chain([first], islice(groups, SESSIONS_PER_PART // SESSIONS_PER_ROW_GROUP - 1)):
                writer.write_table(group)
                of.parts[name] += len(group)
                tracks, strengths = (group[column].combine_chunks() for column in ("tracks", "skips"))
                flat = (tracks.value_lengths(), tracks.flatten(), strengths.flatten())
                rows = Rows(*(values.to_numpy() for values in flat))
                of.checksums[name].append(checksum(rows))
                of.lengths.update(rows.lengths.tolist())
                of.plays += len(rows.skips)
                of.skipped += int(np.count_nonzero(counts_as_skipped(rows.skips)))
                of.unknown += int(np.count_nonzero(rows.skips == UNKNOWN))
                of.heard_U[rows.tracks] = True
                add_contexts(group, rows.lengths, split, name, of)
                advance(len(group))


def add_contexts(group: pa.Table, lengths: np.ndarray, split: str, part: str, of: Written) -> None:
    """Adds the checksums of a row group's context columns to `of`, and the values that training sees."""
    left_P = np.repeat(lengths.cumsum(), lengths) - np.arange(lengths.sum())
    trained_P = left_P > {"part": HELD_OUT["validation"], "train": 0}.get(split, np.inf)
    for column, values in of.values.items():
        words = Words.of(group[column].combine_chunks().flatten())
        of.context_checksums[part][column].append(words.checksum)
        if trained_P.any():
            values.update(words.words[place] for place in np.unique(words.place_P[trained_P]) if place >= 0)


def split_fields(written: dict[str, Written]) -> dict[str, Any]:
    """Returns the manifest's fields of a dataset that is split by whole sessions."""
    return {
        "split_parts": {split: [*of.parts] for split, of in written.items()},
        "split_counts": {
            split: {
                "sessions": sum(of.parts.values()),
                "plays": of.plays,
                "tracks_not_in_train": int(np.count_nonzero(of.heard_U & ~written["train"].heard_U)),
            }
            for split, of in written.items()
        },
    }


def write_vocabulary(
    engine: duckdb.DuckDBPyConnection, files: list[Path], wanted: str, names: dict[str, str], result: Path
) -> tuple[np.ndarray, str, dict[str, int]]:
    """Writes the tracks of which the SQL `wanted` is true (`plays.count`: in the chosen sessions), and their names.

    Returns their codes, the hash of their ids, and how many have each of the names.
    """
    values = "".join(f", {table}.value AS {table}" for table in names.values())
    joins = " ".join(f"LEFT JOIN {table} USING (code)" for table in names.values())
    played = engine.sql(f"""
        SELECT id AS track_id, code, coalesce(plays.count, 0) AS count{values} FROM tracks LEFT JOIN (
            SELECT code, count(*) AS count
            FROM (SELECT unnest(tracks) AS code FROM {parquet(*files)}) GROUP BY code
        ) AS plays USING (code) {joins} WHERE {wanted} ORDER BY code""").to_arrow_reader(1 << 20)
    columns = {"track_id": pa.string(), "row": pa.int32(), "count": pa.int64(), **dict.fromkeys(names, pa.string())}
    codes, digest, named = [], hashlib.sha256(), dict.fromkeys(names, 0)
    with table_writer(result / VOCABULARY, pa.schema(columns), compression="zstd") as writer:
        row = 0
        for batch in played:
            rows = pa.array(np.arange(row, row + len(batch), dtype=np.int32))
            table = pa.table({name: rows if name == "row" else batch[names.get(name, name)] for name in columns})
            writer.write_table(table.cast(pa.schema(columns)), 1 << 20)
            digest.update("".join(f"{track}\n" for track in batch["track_id"].to_pylist()).encode())
            named = {name: named[name] + len(batch) - batch[of].null_count for name, of in names.items()}
            codes.append(batch["code"].to_numpy())
            row += len(batch)
    return np.concatenate(codes), digest.hexdigest(), named


def finished(
    batch: pa.RecordBatch, schema: pa.Schema, meanings: dict[str, pa.Array], context: dict[str, str]
) -> pa.Table:
    """Replaces the codes of tracks by vocabulary rows, and those of context columns by their text and their names."""
    table = (
        pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    )  # DuckDB names a sample's lists in another way
    for name, meaning in meanings.items():
        lists = table[name].combine_chunks()
        column = pa.ListArray.from_arrays(lists.offsets, meaning.take(lists.values))
        table = table.set_column(table.column_names.index(name), name, column)
    return table.rename_columns([context.get(name, name) for name in table.column_names])
