"""The read step and the group step of `prepare`: some files of a log, and then one bucket of its sessions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipwise.common.tables import count_rows
from skipwise.datapipes.exact_files import parquet, write
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.given_vocabulary import Known
from skipwise.datapipes.prepare.plausible import Seen, odd_ids
from skipwise.datapipes.prepare.sessionize import group_sessions
from skipwise.datapipes.prepare.shard_records import GroupShard, ReadShard, places_of, write_shard
from skipwise.datapipes.prepare.sources import Log
from skipwise.datapipes.prepare.staging import connect, count_rows_without_session, number_texts, split_rows, stage_rows
from skipwise.datapipes.prepare.track_names import count_names

ROWS, IDS, STAGED, WITH_POINT = "rows", "tracks.parquet", "sessions.parquet", "with-point.parquet"
"""What shards hold: of read ones the rows, in a folder a bucket, and the session ids that end in ".0", without that; of
grouped ones the track ids (by code, unless the tracks are given), and the sessions."""


def files_of(sizes: Sequence[int], number: int, num_shards: int) -> list[int]:
    """Returns the numbers of the files, of so many bytes, that a shard reads: neighbours, and about as many bytes for
    each shard."""
    every, before, mine = max(1, sum(sizes)), 0, []
    for file, size in enumerate(sizes):
        if min(num_shards - 1, (2 * before + size) * num_shards // (2 * every)) == number:
            mine.append(file)
        before += size
    return mine


def read_shard(
    config: PrepareConfig, log: Log, number: int, identity: dict[str, Any], scratch: Path, folder: Path
) -> None:
    """Reads and checks a shard's files, and writes its rows and `RECORD` into `folder`."""
    num_shards = identity["num_shards"]
    staged = scratch / "staged" if num_shards > 1 else folder / ROWS / "bucket=0"
    for made in (folder / ROWS, staged):
        made.mkdir(parents=True, exist_ok=True)
    with connect(config, scratch) as engine:
        found = stage_rows(engine, log, files_of(log.sizes, number, num_shards), config, staged)
        if num_shards > 1:
            split_rows(engine, staged, folder / ROWS, num_shards)
        if files := sorted((folder / ROWS).glob("*/*.parquet")):
            points = f"SELECT DISTINCT left(session, -2) AS id FROM {parquet(*files)} WHERE session LIKE '%.0'"
            write(engine.sql(points), folder / WITH_POINT)
    roles = log[0].roles
    shard = ReadShard(roles=roles, left_out=found.left_out, dates=found.dates, places=found.places, **identity)
    write_shard(folder, shard)


def group_shard(
    config: PrepareConfig,
    log: Log,
    known: Known | None,
    number: int,
    reads: dict[Path, ReadShard],
    identity: dict[str, Any],
    scratch: Path,
    folder: Path,
) -> None:
    """Groups the rows of a bucket, which all `reads` may have, and writes its sessions and `RECORD` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    places, roles = places_of(reads.values()), log[0].roles
    files = [file for read in reads for file in sorted((read / ROWS / f"bucket={number}").glob("*.parquet"))]
    if not (num_rows := sum(map(count_rows, files))):
        nothing = GroupShard(
            rows=0, sessions=0, dropped_sessions={}, dropped_rows={}, words={}, ids=[0] * 3, seen=Seen(), **identity
        )
        write_shard(folder, nothing)
        return
    rows = parquet(*files)
    with connect(config, scratch) as engine:
        without = count_rows_without_session(engine, rows)
        words = number_texts(engine, rows, roles, known)
        ids_by_code = "SELECT id FROM tracks ORDER BY code"
        of_log = f"SELECT DISTINCT track AS id FROM {rows} WHERE fault = 0"
        write(engine.sql(of_log if known else ids_by_code), folder / IDS)
        points = [file for read in reads if (file := read / WITH_POINT).exists()]
        ids = odd_ids(engine, "sessions", f"SELECT id FROM {parquet(*points)}")
        count_names(engine, config, rows, folder)
        dropped, found, plausible = group_sessions(engine, rows, log, config, folder / STAGED, places)
    shard = GroupShard(
        rows=num_rows,
        sessions=count_rows(folder / STAGED) if (folder / STAGED).exists() else 0,
        dropped_sessions=dict(dropped),
        dropped_rows=dict(without + found),
        words=words,
        ids=ids,
        seen=plausible.seen(),
        **identity,
    )
    write_shard(folder, shard)
