"""What is known of the places of all plays of a log: how they sort, and which files they stand in from new to old."""

from dataclasses import dataclass, field
from fractions import Fraction

import duckdb

from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.places import BAD_PLACE
from skipwise.datapipes.prepare.times import MICROSECOND

DIRECTION_ROWS = 1 << 14
"""Rows of a file that decide whether it runs from new to old."""
Point = tuple[int, int]
"""A place and its fraction."""
NOWHERE: Point = (BAD_PLACE, 0)
"""What stands for the places of a file without one."""


@dataclass
class Places:
    """What is known of the places of a log, once its rows are staged."""

    dates: bool = False
    """Whether they are dates and times, which count microseconds since 1970."""
    fractions: bool = False
    """Whether any has a fraction."""
    newest_first: set[int] = field(default_factory=set)
    """Numbers of the files that run from new to old."""
    level: set[int] = field(default_factory=set)
    """Numbers of those without a step in time within a session, such as a page of one row."""
    minutes: set[int] = field(default_factory=set)
    """Numbers of those whose times are all whole minutes."""
    spans: dict[int, tuple[Point, Point]] = field(default_factory=dict)
    """The earliest and the latest place of each file, with their fractions."""

    def unit(self, config: PrepareConfig) -> Fraction | None:
        """What places count, in seconds; None where they are no times."""
        return MICROSECOND if self.dates else config.unit if config.in_time_unit else None

    def add(self, engine: duckdb.DuckDBPyConnection, file: int, rows: str, config: PrepareConfig) -> None:
        """Takes in the staged rows of a file."""
        minute = Fraction(60) / (self.unit(config) or 60)
        whole = f"count(*) > 2 AND bool_and(place % {minute} = 0)" if minute.denominator == 1 < minute else "false"
        placed = f"FROM {rows} WHERE place IS NOT NULL"
        fractions, minutes, *ends = engine.execute(
            f"SELECT bool_or(fraction <> 0), {whole}, min(place), max(place) {placed}"
        ).fetchall()[0]
        self.minutes |= {file} if minutes else set()
        self.fractions |= bool(fractions)
        if fractions:
            point = "row(place, fraction)"
            ends = [*engine.execute(f"SELECT min({point}), max({point}) {placed}").fetchall()[0]]
        first, last = (NOWHERE if end is None else end if fractions else (end, 0) for end in ends)
        self.spans[file] = first, last
        if config.sorts and (backwards := runs_backwards(engine, rows)) is not False:
            (self.level if backwards is None else self.newest_first).add(file)

    def coarser(self) -> tuple[int, int] | None:
        """Returns a file whose times are whole minutes and one of the same days whose times are not."""
        pairs = ((one, other) for one in sorted(self.minutes) for other in self.spans if other not in self.minutes)
        return next((pair for pair in pairs if self._overlap(*pair)), None)

    def _overlap(self, one: int, other: int) -> bool:
        (first, last), (begin, end) = self.spans[one], self.spans[other]
        return first <= end and begin <= last and NOWHERE not in (first, begin)

    def order(self, files: int) -> str:
        """Returns the SQL that orders the plays of a session where rows are sorted.

        Of files that run from new to old, plays of the same place are taken in reverse; where all do, those of the
        earlier file come first. Files without a step follow the others, where these agree.
        """
        keys = ["place", *["fraction"] * self.fractions]
        file, row = "file", "row"
        backwards = self.newest_first
        if backwards and len(backwards | self.level) == files:
            backwards = backwards | self.level
            # Of files that all hold one and the same place, numbers decide, in the direction of the whole.
            sign = -1 if self.spans[0] > self.spans[files - 1] else 1
            ranks = sorted(range(files), key=lambda number: (self.spans[number], sign * number))
            file = f"list_position({ranks}, file)"
        if backwards:
            row = f"CASE WHEN file IN ({', '.join(map(str, sorted(backwards)))}) THEN -row ELSE row END"
        return ", ".join([*keys, file, row])


def runs_backwards(engine: duckdb.DuckDBPyConnection, rows: str) -> bool | None:
    """Whether the staged rows of a file run from new to old: nine of ten steps within its sessions are back in time;
    None without a step."""
    point = "row(place, fraction)"
    back, forth = engine.execute(f"""
        SELECT count(*) FILTER ({point} < before), count(*) FILTER ({point} > before) FROM (
            SELECT place, fraction, lag({point}) OVER (PARTITION BY session ORDER BY row) AS before
            FROM {rows} WHERE row < {DIRECTION_ROWS} AND fault = 0)""").fetchall()[0]
    return bool(back > 9 * forth) if back or forth else None
