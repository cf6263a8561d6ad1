"""What is known of the places of all plays of a log: how they sort, and which files they stand in from new to old."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import duckdb
from pydantic import Field

from skipwise.common.schema import Count, StrictModel
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.places import BAD_PLACE
from skipwise.datapipes.prepare.times import MICROSECOND

DIRECTION_ROWS = 1 << 14
"""Rows of a file that decide whether it runs from new to old."""
Point = Annotated[tuple[int, int], Field(strict=False)]
"""A place and its fraction."""
NOWHERE: Point = (BAD_PLACE, 0)
"""What stands for the places of a file without one."""


class FilePlaces(StrictModel):
    """What is known of the places of one file."""

    file: Count
    """Its number in the log."""
    minutes: bool
    """Whether its times are all whole minutes."""
    fractions: bool
    """Whether any place has a fraction."""
    backwards: bool | None
    """Whether it runs from new to old; None for one without a step in time within a session, such as a page of one
    row."""
    first: Point
    last: Point
    """The earliest and the latest place, with their fractions; `NOWHERE` for a file without one."""

    @classmethod
    def of(
        cls, engine: duckdb.DuckDBPyConnection, file: int, rows: str, config: PrepareConfig, dates: bool
    ) -> "FilePlaces":
        """Reads the staged rows of a file, whose places are dates and times or numbers."""
        minute = Fraction(60) / (Places(dates).unit(config) or 60)
        whole = f"count(*) > 2 AND bool_and(place % {minute} = 0)" if minute.denominator == 1 < minute else "false"
        placed = f"FROM {rows} WHERE place IS NOT NULL"
        fractions, minutes, *ends = engine.execute(
            f"SELECT bool_or(fraction <> 0), {whole}, min(place), max(place) {placed}"
        ).fetchall()[0]
        if fractions:
            point = "row(place, fraction)"
            ends = [*engine.execute(f"SELECT min({point}), max({point}) {placed}").fetchall()[0]]
        first, last = (NOWHERE if end is None else end if fractions else (end, 0) for end in ends)
        backwards = runs_backwards(engine, rows) if config.sorts else False
        return cls(
            file=file, minutes=bool(minutes), fractions=bool(fractions), backwards=backwards, first=first, last=last
        )


@dataclass
class Places:
    """What is known of the places of a log, once its rows are staged."""

    dates: bool = False
    """Whether they are dates and times, which count microseconds since 1970."""
    files: Sequence[FilePlaces] = ()
    """All files, by their numbers; empty where rows have no places."""

    @property
    def fractions(self) -> bool:
        """Whether any place has a fraction."""
        return any(of.fractions for of in self.files)

    @property
    def newest_first(self) -> set[int]:
        """Numbers of the files that run from new to old."""
        return {of.file for of in self.files if of.backwards}

    def unit(self, config: PrepareConfig) -> Fraction | None:
        """What places count, in seconds; None where they are no times."""
        return MICROSECOND if self.dates else config.unit if config.in_time_unit else None

    def coarser(self) -> tuple[int, int] | None:
        """Returns a file whose times are whole minutes and one of the same days whose times are not."""
        pairs = ((one, other) for one in self.files if one.minutes for other in self.files if not other.minutes)
        return next(((one.file, other.file) for one, other in pairs if _overlap(one, other)), None)

    def order(self) -> str:
        """Returns the SQL that orders the plays of a session where rows are sorted.

        Of files that run from new to old, plays of the same place are taken in reverse; where all do, those of the
        earlier file come first. Files without a step follow the others, where these agree.
        """
        keys = ["place", *["fraction"] * self.fractions]
        file, row = "file", "row"
        backwards = self.newest_first
        if backwards and all(of.backwards is not False for of in self.files):
            backwards = {of.file for of in self.files}
            # Of files that all hold one and the same place, numbers decide, in the direction of the whole.
            ends = [(of.first, of.last) for of in self.files]
            sign = -1 if ends[0] > ends[-1] else 1
            ranks = sorted(range(len(ends)), key=lambda number: (ends[number], sign * number))
            file = f"list_position({ranks}, file)"
        if backwards:
            row = f"CASE WHEN file IN ({', '.join(map(str, sorted(backwards)))}) THEN -row ELSE row END"
        return ", ".join([*keys, file, row])


def _overlap(one: FilePlaces, other: FilePlaces) -> bool:
    return one.first <= other.last and other.first <= one.last and NOWHERE not in (one.first, other.first)


def runs_backwards(engine: duckdb.DuckDBPyConnection, rows: str) -> bool | None:
    """Whether the staged rows of a file run from new to old: nine of ten steps within its sessions are back in time;
    None without a step."""
    point = "row(place, fraction)"
    back, forth = engine.execute(f"""
        SELECT count(*) FILTER ({point} < before), count(*) FILTER ({point} > before) FROM (
            SELECT place, fraction, lag({point}) OVER (PARTITION BY session ORDER BY row) AS before
            FROM {rows} WHERE row < {DIRECTION_ROWS} AND fault = 0)""").fetchall()[0]
    return bool(back > 9 * forth) if back or forth else None
