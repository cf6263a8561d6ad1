"""How long after the play before each play was, and after the first play of its track, where places are times.

A bucket of sessions knows the plays of its own sessions alone, so first plays are merged before ages are computed.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.tables import read_table, write_table
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.log_places import Places
from skipwise.datapipes.prepare.places import ONE, distance
from skipwise.datapipes.session_files import AGES

TIMES = "times"
"""The column of the staged sessions with the whole part of each play's place."""
FIRST = "first-plays.parquet"
"""Of a shard: the first place of each track that it plays, by the codes that tracks have there."""
HOUR = 3600
"""Seconds."""


def unit_of_times(places: Places, config: PrepareConfig, roles: dict[str, str]) -> Fraction | None:
    """What places count, in seconds; None where plays have no times."""
    return places.unit(config) if "order" in roles else None


def pauses(block: pa.Table, unit: Fraction) -> pa.Array:
    """int8 [rows]: log2 of one more than the seconds since the row before, rounded; null in the first row of a session.

    Rows are sorted by session and place.
    """
    whole, parts = distance(block, slice(None, -1), slice(1, None))
    passed = whole.astype(np.float64) if parts is None else whole + parts / ONE
    codes = np.zeros(len(block), dtype=np.int8)
    codes[1:] = np.rint(np.log2(1 + passed * float(unit)))
    first = np.diff(block["session"].to_numpy(), prepend=-1) != 0
    return pa.array(codes, mask=first)


class FirstPlays:
    """The first place of each track, over blocks of rows."""

    def __init__(self, engine: duckdb.DuckDBPyConnection):
        """`engine`: has the table `tracks`."""
        ((num_codes,),) = engine.execute("SELECT count(*) FROM tracks").fetchall()
        self._first_C = np.full(num_codes, np.iinfo(np.int64).max)

    def add(self, block: pa.Table) -> None:
        """Takes in good rows of known tracks."""
        np.minimum.at(self._first_C, block["track"].to_numpy(), block["place"].to_numpy())

    def write(self, file: Path) -> None:
        """Writes those of the tracks that were played."""
        code_X = np.flatnonzero(self._first_C < np.iinfo(np.int64).max)
        write_table(pa.table({"code": code_X, "first": self._first_C[code_X]}), file)


@dataclass(frozen=True)
class Ages:
    """What the ages of tracks are computed from."""

    first_C: np.ndarray
    """int64: the first place of each track of the log, by its code."""
    unit: Fraction
    """What places count, in seconds."""

    @classmethod
    def of(cls, buckets: dict[Path, np.ndarray], num_codes: int, unit: Fraction) -> "Ages":
        """Merges the first plays of all `buckets`, from whose codes the arrays lead to those of the log."""
        first_C = np.full(num_codes, np.iinfo(np.int64).max)
        for folder, codes in buckets.items():
            found = read_table(folder / FIRST)
            np.minimum.at(first_C, codes[found["code"].to_numpy()], found["first"].to_numpy())
        return cls(first_C, unit)

    def put(self, sessions: pa.Table, codes: np.ndarray) -> pa.Table:
        """Puts `AGES` in the place of `TIMES`: whole hours since the first play of the track, int32, a list a session.

        `codes`: from those in `tracks` to those of the log.
        """
        times, tracks = (sessions[name].combine_chunks() for name in (TIMES, "tracks"))
        first = self.first_C[codes[tracks.values.to_numpy()]]
        # No play is before the first; the difference of two numbers of 64 bits has 64 bits without a sign.
        passed = times.values.to_numpy().view(np.uint64) - first.view(np.uint64)
        hours = np.minimum(passed * float(self.unit / HOUR), np.iinfo(np.int32).max).astype(np.int32)
        ages = pa.ListArray.from_arrays(times.offsets, pa.array(hours))
        return sessions.drop_columns([TIMES]).append_column(AGES, ages)
