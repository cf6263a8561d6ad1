"""Which of the staged sessions are written, and for which split."""

from collections import Counter
from itertools import accumulate
from pathlib import Path

import duckdb
import pyarrow.compute as pc

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.common.tables import count_rows, read_table
from skipwise.datapipes.exact_files import parquet, write
from skipwise.datapipes.manifest import SPLITS
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.plausible import as_time
from skipwise.datapipes.prepare.sessionize import ENDED, SPLIT

DUPLICATE = "with the tracks of another session"


def choose_sessions(
    engine: duckdb.DuckDBPyConnection, staged: Path, config: PrepareConfig, dropped: Counter[str]
) -> dict[str, Path]:
    """Returns a file of staged sessions for train, validation and test, or for "part" where the split is by position.

    Leaves duplicates out where that is asked for, draws the sample, and counts in `dropped` what is left out. Prints
    how many duplicates remain. Raises `UserError` where a split has no session. DuckDB holds some 60 bytes a session,
    and spills them.
    """
    numbered = parquet(staged, options=", file_row_number = true")
    engine.execute(f"""
        CREATE TABLE chosen AS SELECT file_row_number AS number, md5_number(tracks::VARCHAR) AS digest,
            md5_number_upper('{config.seed}:' || session_id) AS draw, {split_of(config)} AS split
        FROM {numbered}""").fetchall()
    if config.drop_duplicate_sessions:
        keep(engine, "SELECT min(number) FROM chosen GROUP BY digest", DUPLICATE, dropped)
    if config.sample is not None:
        keep(
            engine,
            f"SELECT number FROM chosen ORDER BY draw, number LIMIT {config.sample}",
            "not in the sample",
            dropped,
        )
    if duplicates := count_by_split(engine, "number NOT IN (SELECT min(number) FROM chosen GROUP BY digest)"):
        crossing = count_by_split(
            engine, "split <> 'train' AND digest IN (SELECT digest FROM chosen WHERE split = 'train')"
        )
        note(duplicates_warning(duplicates.total(), count_by_split(engine).total(), crossing))
    splits = ["part"] if config.split == "last" else [*SPLITS]
    refuse_empty_splits(splits, count_by_split(engine), config, staged)
    if config.split == "last" and count_by_split(engine).total() == count_rows(staged):
        return {"part": staged}
    files = {split: staged.with_name(f"{split}.parquet") for split in splits}
    for split, file in files.items():
        rows = engine.sql(f"""
            SELECT * EXCLUDE file_row_number FROM {numbered}
            WHERE file_row_number IN (SELECT number FROM chosen WHERE split = '{split}')
            ORDER BY file_row_number""")
        write(rows, file, "lz4_raw")
    return files


def split_of(config: PrepareConfig) -> str:
    """Returns the SQL of a session's split."""
    if config.split == "session":
        # Not the hash of the sample, which takes the smallest values.
        value = f"md5_number_upper('{config.seed}:split:' || session_id)"
        conditions = [f"{value} < {int(share * 2**64)}" for share in accumulate(config.shares.values())]
    elif config.split == "time":
        return SPLIT
    else:
        return "'part'"
    return f"CASE WHEN {conditions[0]} THEN 'test' WHEN {conditions[1]} THEN 'validation' ELSE 'train' END"


def keep(engine: duckdb.DuckDBPyConnection, numbers: str, reason: str, dropped: Counter[str]) -> None:
    """Deletes all but these from the table `chosen`, and counts them in `dropped`."""
    ((count,),) = engine.execute(f"DELETE FROM chosen WHERE number NOT IN ({numbers})").fetchall()
    if count:
        dropped[reason] += count


def count_by_split(engine: duckdb.DuckDBPyConnection, condition: str = "true") -> Counter[str]:
    """Returns the number of chosen sessions of which the condition is true, by split."""
    return Counter(
        dict(engine.execute(f"SELECT split, count(*) FROM chosen WHERE {condition} GROUP BY split").fetchall())
    )


def duplicates_warning(duplicates: int, sessions: int, crossing: Counter[str]) -> str:
    """Returns the sentence about duplicates; `crossing`: held-out sessions with the tracks of a training session."""
    held_out = [f"{crossing[split]:,} {split} sessions" for split in SPLITS if crossing[split]]
    across = f"; {' and '.join(held_out)} have the tracks of a training session" if held_out else ""
    return (
        f"warning: {duplicates:,} of {sessions:,} sessions repeat all tracks of another session, in the same order"
        f"{across}: leave the repetitions out with --drop-duplicate-sessions"
    )


def refuse_empty_splits(splits: list[str], sessions: Counter[str], config: PrepareConfig, staged: Path) -> None:
    """Raises `UserError` where a split has no session; of a split by time it says when the staged sessions end."""
    if any(sessions[split] == 0 for split in splits):
        counts = ", ".join(f"{sessions[split]:,} {split}" for split in splits)
        way = "raise" if sessions["train"] else "lower"
        remedy = f"{way} --test-share or --validation-share, or prepare more sessions"
        if config.split == "time":
            ends = pc.min_max(read_table(staged, [ENDED])[ENDED]).as_py()
            first, last = (as_time(ends[name]) for name in ("min", "max"))
            remedy = (
                f"the sessions end from {first} to {last}, so move --validation-from or --test-from (a date with "
                "dashes: digits alone are a number), or check --time-unit"
            )
        raise UserError(f"--split {config.split} leaves a part without sessions ({counts}): {remedy}")
