"""Which of the staged sessions are written, and for which split."""

from collections import Counter
from itertools import accumulate
from pathlib import Path

import duckdb
import numpy as np

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.common.tables import count_rows
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.manifest import SPLITS
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.plausible import as_time
from skipwise.datapipes.prepare.sessionize import ENDED, SPLIT
from skipwise.datapipes.prepare.track_digests import DIGESTS

NO_SPLIT = 255
DUPLICATE = "with the tracks of another session"


def choose_sessions(
    engine: duckdb.DuckDBPyConnection, buckets: list[Path], config: PrepareConfig, dropped: Counter[str]
) -> np.ndarray:
    """Returns uint8 [num_sessions]: the place in `splits_of` of the split that has each staged session, `NO_SPLIT` for
    none; the sessions of the `buckets` are numbered one bucket after the other.

    Leaves duplicates out where that is asked for, draws the sample, and counts in `dropped` what is left out. Prints
    how many duplicates remain. Raises `UserError` where a split has no session. DuckDB holds some 60 bytes a session,
    and spills them.
    """
    splits, sizes = splits_of(config), [count_rows(file) for file in buckets]
    low, high = DIGESTS
    draw = "" if config.sample is None else f", md5_number_upper('{config.seed}:' || session_id) AS draw"
    parts = [
        f"""SELECT file_row_number + {first} AS number, {high}::UHUGEINT * {2**64} + {low} AS digest,
            {split_of(config)} AS split{draw} FROM {parquet(file, options=", file_row_number = true")}"""
        for file, first in zip(buckets, accumulate(sizes, initial=0), strict=False)
    ]
    engine.execute(f"CREATE TABLE chosen AS {' UNION ALL '.join(parts)}").fetchall()
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
    refuse_empty_splits(engine, splits, config, buckets)
    split_S = np.full(sum(sizes), NO_SPLIT, dtype=np.uint8)
    found = engine.sql(f"SELECT number, list_position({splits}, split) - 1 AS place FROM chosen")
    for batch in found.to_arrow_reader(1 << 20):
        split_S[batch["number"].to_numpy()] = batch["place"].to_numpy()
    engine.execute("DROP TABLE chosen").fetchall()
    return split_S


def splits_of(config: PrepareConfig) -> list[str]:
    """Returns the splits that have files of their own, or "part" where the split is by position."""
    return ["part"] if config.split == "last" else [*SPLITS]


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


def refuse_empty_splits(
    engine: duckdb.DuckDBPyConnection, splits: list[str], config: PrepareConfig, buckets: list[Path]
) -> None:
    """Raises `UserError` where a split has no session; of a split by time it says when the staged sessions end."""
    sessions = count_by_split(engine)
    if any(sessions[split] == 0 for split in splits):
        counts = ", ".join(f"{sessions[split]:,} {split}" for split in splits)
        way = "raise" if sessions["train"] else "lower"
        remedy = f"{way} --test-share or --validation-share, or prepare more sessions"
        if config.split == "time":
            ((*ends,),) = engine.execute(f"SELECT min({ENDED}), max({ENDED}) FROM {parquet(*buckets)}").fetchall()
            first, last = map(as_time, ends)
            remedy = (
                f"the sessions end from {first} to {last}, so move --validation-from or --test-from (a date with "
                "dashes: digits alone are a number), or check --time-unit"
            )
        raise UserError(f"--split {config.split} leaves a part without sessions ({counts}): {remedy}")
