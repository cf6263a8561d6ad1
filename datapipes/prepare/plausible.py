"""Warnings of what a log can hardly mean: times in another unit, sessions of days, pauses that cut nothing."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.schema import StrictModel
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.log_places import Places
from skipwise.datapipes.prepare.places import BAD_PLACE, at_least, distance, exact, more_than
from skipwise.datapipes.prepare.times import UNITS

FIRST = Fraction(631_152_000)
"""1990, in seconds since 1970: no log of plays is older."""
DAY = Fraction(86_400)
LONG = 100
"""Plays of a session that hardly anybody hears at one sitting."""
GUESSED = ("s", "ms", "us")
"""Units that times have where nothing says it. Nanoseconds look like snowflake ids."""


def as_time(seconds: float) -> str:
    """Seconds since 1970 as a date and time in UTC, or as they are beyond the years that have one."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s since 1970"


def odd_ids(engine: duckdb.DuckDBPyConnection, table: str, with_point: str) -> list[int]:
    """Returns of how many ids of a table those with ".0" behind them occur too, how many are lists written as text, and
    how many there are.

    `with_point`: SQL of the ids that occur with it, without it.
    """
    counts = engine.execute(f"""
        SELECT count_if(id IN ({with_point})), count_if(regexp_full_match(id, '\\[.*,.*\\]')), count(*)
        FROM {table}""").fetchall()[0]
    return [int(count or 0) for count in counts]


def id_warnings(column: str, counts: list[int]) -> Iterator[str]:
    """Yields warnings of ids that are hardly meant; `counts`: see `odd_ids`."""
    twice, lists, ids = counts
    if twice:
        yield f"{twice:,} ids of {column} occur with .0 behind them too, as others: write them in one way"
    if lists and 2 * lists > ids:
        yield f"{column} holds lists written as text, and each counts as one id: write them as JSON or Parquet"


class Seen(StrictModel):
    """What the warnings need to know of plays and sessions."""

    plays: int = 0
    owners: int = 0
    """Sessions that the session column tells apart."""
    sessions: int = 0
    long: int = 0
    """Sessions of more than `LONG` plays."""
    fitting: dict[str, int] = {}
    """Plays from 1990 to tomorrow, by the unit that times count; "" is the one that they are taken for."""
    days: dict[str, int] = {}
    """Sessions longer than a day, by unit."""
    first: int = BAD_PLACE
    last: int = -BAD_PLACE - 1
    """The earliest and the latest place."""


class Plausible:
    """Counts what the warnings need, block by block."""

    def __init__(self, config: PrepareConfig, places: Places, column: str | None) -> None:
        """`column`: the name of the --order column, None for rows that stand in play order."""
        self.config, self.dates, self.column = config, places.dates, column
        self.tomorrow = Fraction(int((datetime.now(UTC) + timedelta(days=1)).timestamp()))
        self.units = {} if places.dates else {name: UNITS[name] for name in ("s", "ms", "us", "ns")}
        if (unit := places.unit(config)) is not None:
            self.units[""] = unit
        self.plays = self.owners = self.sessions = self.long = 0
        self.fitting: Counter[str] = Counter()
        self.days: Counter[str] = Counter()
        self.first, self.last = BAD_PLACE, -BAD_PLACE - 1

    def seen(self) -> Seen:
        """Returns what was counted."""
        return Seen(**{name: getattr(self, name) for name in Seen.model_fields})

    def take_in(self, seen: Seen) -> None:
        """Adds what was counted elsewhere."""
        for name in ("plays", "owners", "sessions", "long"):
            setattr(self, name, getattr(self, name) + getattr(seen, name))
        self.fitting.update(seen.fitting)
        self.days.update(seen.days)
        self.first, self.last = min(self.first, seen.first), max(self.last, seen.last)

    def add(self, block: pa.Table, owners: int, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Takes in plays that are sorted and cut into sessions; `owners`: how many the session column tells apart."""
        self.plays += len(block)
        self.owners += owners
        self.sessions += len(starts)
        self.long += int(np.count_nonzero(lengths > LONG))
        if self.column is None or not len(block):
            return
        place, spans = exact(block), distance(block, starts, starts + lengths - 1)
        self.first, self.last = min(self.first, int(place[0].min())), max(self.last, int(place[0].max()))
        for name, unit in self.units.items():
            dated = at_least(place, FIRST / unit) & ~more_than(place, self.tomorrow / unit)
            self.fitting[name] += int(np.count_nonzero(dated))
            self.days[name] += int(np.count_nonzero(more_than(spans, DAY / unit)))

    def warnings(self) -> Iterator[str]:
        """Yields sentences that each name what looks wrong and the option that helps."""
        if not self.plays:
            return
        if "" in self.units:
            yield from self._times()
        if self.config.gap is not None:
            yield from self._pauses()
        yield from self._sessions()

    def _times(self) -> Iterator[str]:
        if (out := self.plays - self.fitting[""]) * 2 <= self.plays:
            if out:
                yield (
                    f"{out:,} of {self.plays:,} plays are before 1990 or after tomorrow by {self.column} (it runs "
                    f"{self._range('')}): correct these rows, or leave them out with --where"
                )
            return
        unit = max((*GUESSED, "ns"), key=lambda name: self.fitting[name])
        known = self.config.time_unit
        if self.dates:
            yield f"{self.column} runs {self._range('')}, mostly before 1990 or after tomorrow: check the column"
        elif self.fitting[unit] * 2 > self.plays:
            yield (
                f"{self.column} runs {self._range('')} in {known or 's'}, and {self._range(unit)} in {unit}: give "
                f"--time-unit {unit}"
            )
        elif known is None:
            yield (
                f"{self.column} runs {self._range('')} in s: say what it counts with --time-unit (--time-unit s if "
                f"that is meant), or, where its digits are a date, how with --time-format"
            )

    def _range(self, unit: str) -> str:
        first, last = (as_time(float(place * self.units[unit])) for place in (self.first, self.last))
        return f"from {first} to {last}"

    def _pauses(self) -> Iterator[str]:
        cuts, steps = self.sessions - self.owners, self.plays - self.owners
        check = f"check {self.column}" if self.dates else "check --time-unit"
        if steps and not cuts:
            owner = self.config.session if self.config.user is None else "listener"
            yield (
                f"--gap {self.config.gap} cuts nothing, as no pause is longer: {check}, unless each {owner} is one "
                f"session"
            )
        elif cuts * 10 > steps * 9:
            yield f"--gap {self.config.gap} cuts at {cuts:,} of {steps:,} pauses between plays: raise it, or {check}"

    def _sessions(self) -> Iterator[str]:
        unit = next((name for name in ("", *GUESSED) if self.fitting[name] * 10 > self.plays * 9), None)
        if "" in self.units:
            unit = ""
        days = self.days[unit] if unit is not None else 0
        owner = f"if {self.config.session} is a listener, " if self.config.user is None else ""
        listener = f"{owner}cut at pauses with --gap 30m"
        if self.config.drop_longer is not None:
            return
        if days and self.config.gap is None:
            yield f"{days:,} of {self.sessions:,} sessions last longer than a day: {listener}"
        elif days:
            yield (
                f"{days:,} of {self.sessions:,} sessions last longer than a day without a pause of {self.config.gap}: "
                f"leave them out with --drop-longer, or lower --gap"
            )
        elif self.long * 2 > self.sessions and self.config.gap is None:
            how = "" if self.column is not None else " and its times with --order"
            yield f"more than half of the sessions have more than {LONG} plays: {listener}{how}"
