"""The place of a play in its session: a number, or a date and time, read without losing a digit.

A place is two whole numbers of 64 bits: `place`, rounded down, and `fraction`, what is above it in parts of 10^-18.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import islice, product

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.times import DATES, YEAR

BAD_PLACE = 2**63 - 1
"""What stands for the place of a row without one, which is bad."""
ONE = 10**18
"""Parts that `fraction` counts."""
HEAD = 1000
"""Values that decide how a column is read."""

_FRACTION = """(contains("order", '.') OR contains("order", 'e') OR contains("order", 'E'))"""
_SPELLINGS = (
    (" *(UTC|GMT|[Zz])$", "+00"),
    (" +([+-][0-9]{2}:?[0-9]{2})$", r"\1"),
    ("(:[0-9]{2}:[0-9]{2}),([0-9])", r"\1.\2"),  # 20:30:05,25
    ("(:[0-9]{2}(?:[.][0-9]+)?) *([+-])([0-9](?::[0-9]{2})?)$", r"\1\20\3"),
)
"""Ways to write a time, as regular expressions, and what DuckDB reads in their place."""
_SPELT = reduce(lambda text, way: f"regexp_replace({text}, '{way[0]}', '{way[1]}')", _SPELLINGS, '"order"')
# Not TIMESTAMP, which reads over an offset; the time zone of values without one is UTC.
_MOMENT = f"""coalesce(try_cast("order" AS TIMESTAMPTZ), try_cast({_SPELT} AS TIMESTAMPTZ))"""
# What a time has behind its microseconds, which are DuckDB's unit.
_BEHIND = """CASE WHEN contains("order", '.') OR contains("order", ',') THEN rpad(left(regexp_extract(
    "order", '([.]|:[0-9]{2}:[0-9]{2},)[0-9]{6}([0-9]+)', 2), 18), 18, '0')::BIGINT ELSE 0 END"""

# A year of fewer digits may be a day of the month.
_FOUR_DIGITS = f"CASE WHEN moment BETWEEN {-30_610_224_000 * 10**6} AND {253_402_300_800 * 10**6 - 1} THEN moment END"

_DAYS = ("%d %b %Y", "%b %d, %Y", "%d-%b-%Y", "%d/%b/%Y", "%Y-%m-%d")
_CLOCKS = (
    "",
    *(f"{gap}{clock}" for clock, gap in product(("%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p"), (" ", ", "))),
)
PATTERNS = (
    *(
        f"{week}{day}{clock}{zone}"
        for day, clock, zone, week in product(_DAYS, _CLOCKS, ("", " %z", " %Z"), ("", "%a, "))
    ),
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%d/%b/%Y:%H:%M:%S %z",
)
"""Formats that are tried where a column holds neither numbers nor dates that begin with the year: those in which day,
month and year cannot be confused."""


@dataclass(frozen=True)
class Reading:
    """How the texts of a column of places are read."""

    dates: bool = False
    pattern: str | None = None
    """A format as DuckDB's `strptime` has it; without one, dates begin with the year."""

    @property
    def value(self) -> str:
        """SQL of the number, or of the date and time, or of NULL for a text that is none."""
        if not self.dates:
            return """try_cast("order" AS DECIMAL(38, 18))"""
        if self.pattern is None:
            return _MOMENT
        pattern = "'" + self.pattern.replace("'", "''") + "'"
        if "%b" in pattern:  # May may be short for nothing
            pattern = f"[{pattern}, {pattern.replace('%b', '%B')}]"
        return f"""try_strptime("order", {pattern})"""

    @property
    def columns(self) -> list[str]:
        """SQL of the columns `place`, NULL for a text that cannot be read, and `fraction`, from the column "order"."""
        if self.dates and "%n" not in (self.pattern or ""):
            return [f"epoch_us({self.value}) AS moment", f"{_FOUR_DIGITS} AS place", f"{_BEHIND} AS fraction"]
        exact, whole = f"epoch_ns({self.value})::DECIMAL(20, 0) * 0.001::DECIMAL(4, 3)", "NULL"
        if not self.dates:
            exact = f"CASE WHEN {_FRACTION} THEN {self.value} END"
            whole = f"""CASE WHEN NOT {_FRACTION} THEN try_cast("order" AS BIGINT) END"""
        return [
            f"{exact} AS exact",
            f"coalesce(try_cast(floor(exact) AS BIGINT), {whole}) AS place",
            f"coalesce(((exact - floor(exact)) * {ONE})::BIGINT, 0) AS fraction",
        ]


def reading_of(engine: duckdb.DuckDBPyConnection, texts: pa.Array, config: PrepareConfig) -> Reading | None:
    """Returns the reading that fits most of the first texts, None where none fits; raises `UserError` for a
    --time-format that is none."""
    found = (text.as_py() for text in texts.drop_null())
    head = [*islice((text for text in found if text.strip()), HEAD)]
    if config.time_format is not None:
        reading = Reading(True, config.time_format)
        try:
            _fitting(engine, [reading], head)
        except duckdb.InvalidInputException:
            raise UserError(
                f"--time-format '{config.time_format}' is no format: expected letters of strptime, such as "
                f"'%d %b %Y, %H:%M'"
            ) from None
        return reading
    readings = [Reading(), Reading(True)]
    counts = _fitting(engine, readings, head)
    if 2 * max(counts) < len(head):
        others = [Reading(True, pattern) for pattern in PATTERNS]
        readings, counts = [*readings, *others], [*counts, *_fitting(engine, others, head)]
    return readings[counts.index(max(counts))] if max(counts) else None


def _fitting(engine: duckdb.DuckDBPyConnection, readings: list[Reading], texts: list[str]) -> list[int]:
    """Returns how many of the texts each reading can read."""
    counts = ", ".join(f"count({reading.value})" for reading in readings)
    return [*engine.execute(f'SELECT {counts} FROM (SELECT unnest(?::VARCHAR[]) AS "order")', [texts]).fetchall()[0]]


def format_of(text: str) -> str | None:
    """Returns the --time-format of a date that does not begin with the year, None for any other text."""
    clock = r"((?:,? |T)\d\d?:\d\d(?::\d\d(?:[.]\d{1,6})?)?(?: ?[AaPp][Mm])?)?"
    if found := re.fullmatch(rf"(\d\d?)([./-])(\d\d?)\2(\d{{4}}|\d\d){clock}", text, re.ASCII):
        days = ["%m", "%d"] if int(found[3]) > 12 else ["%d", "%m"]
        year = "%Y" if len(found[4]) == 4 else "%y"
        half = "m" in (found[5] or "").lower()
        letters = iter(("%I" if half else "%H", "%M", "%S", "%f"))
        time = re.sub(r"\d+", lambda _: next(letters), re.sub(r"[AaPp][Mm]", "%p", found[5] or ""))
        return found[2].join([*days, year]) + time
    return None


def guess_format(texts: list[str], config: PrepareConfig) -> str | None:
    """Returns the --time-format that reads most of the first texts, None where they need none or none is known."""
    with duckdb.connect() as engine:
        if reading_of(engine, pa.array(texts, pa.string()), config) is not None:
            return None
        formats = [*dict.fromkeys(found for text in texts[:HEAD] if (found := format_of(text.strip())))]
        counts = _fitting(engine, [Reading(True, found) for found in formats], texts[:HEAD]) if formats else []
    return formats[counts.index(max(counts))] if any(counts) else None


def expected_place(value: str | None) -> str:
    """Returns what was expected in place of a value that is no place, or not one of the kind that the column has."""
    text = (value or "").strip()
    if found := format_of(text):
        return (
            f"expected {DATES}; a date that does not begin with the year is read with --time-format, such as "
            f"--time-format '{found}'"
        )
    if re.fullmatch(r"[+-]?\d+([.]\d*)?([eE][+-]?\d+)?", text, re.ASCII):
        if abs(float(text)) > BAD_PLACE:
            return "expected a number of less than 2^63"
        return "expected a date and time, as most of the first rows have or --time-format says, not a number"
    if re.match(YEAR, text) and re.search(r":\d\d:60(?!\d)", text, re.ASCII):
        return "expected seconds from 00 to 59: write 59 for the 60 of a leap second"
    if re.match(YEAR, text):
        return "expected what most of the first rows have or --time-format says, and a date that there is"
    return f"expected {DATES}, or another date with its --time-format"


def ranks(block: pa.Table) -> np.ndarray:
    """int64 [rows]: numbers that compare as the places of the block do."""
    place = block["place"].to_numpy()
    if "fraction" not in block.column_names:
        return place
    fraction = block["fraction"].to_numpy()
    order = np.lexsort((fraction, place))
    moved = (np.diff(place[order]) != 0) | (np.diff(fraction[order]) != 0)
    found = np.zeros(len(block), dtype=np.int64)
    found[order[1:]] = np.cumsum(moved)
    return found


Exact = tuple[np.ndarray, np.ndarray | None]
"""Whole numbers and what is above them in parts of 10^-18 (None: nothing), a pair for each row."""


def exact(block: pa.Table) -> Exact:
    """Returns the places of a block."""
    return block["place"].to_numpy(), block["fraction"].to_numpy() if "fraction" in block.column_names else None


def distance(block: pa.Table, first: np.ndarray | slice, last: np.ndarray | slice) -> Exact:
    """Returns how far the places of the rows `last` lie behind those of `first`, which must not be greater."""
    whole, fraction = exact(block)
    # The difference of two numbers of 64 bits, the second not less, has 64 bits without a sign.
    whole = whole.view(np.uint64)
    apart = whole[last] - whole[first]
    if fraction is None:
        return apart, None
    parts = fraction[last] - fraction[first]
    return apart - (parts < 0), parts + ONE * (parts < 0)


def at_least(values: Exact, least: Fraction) -> np.ndarray:
    """bool [rows]: which values are `least` or more."""
    whole, parts = values
    high, low = divmod(-(-least * ONE // 1), ONE)
    if parts is None and low:
        high += 1
    if high > np.iinfo(whole.dtype).max:
        return np.zeros(len(whole), dtype=bool)
    high = max(high, int(np.iinfo(whole.dtype).min))
    return whole >= high if parts is None else (whole > high) | ((whole == high) & (parts >= low))


def more_than(values: Exact, limit: Fraction) -> np.ndarray:
    """bool [rows]: which values are greater than `limit`."""
    return at_least(values, Fraction(limit * ONE // 1 + 1, ONE))
