"""The checks of one row, and the messages of those that fail."""

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

from skipwise.common.errors import UserError
from skipwise.common.tables import open_table
from skipwise.datapipes.prepare.config import DATES, PrepareConfig
from skipwise.datapipes.prepare.read_rows import BROKEN, NOT_UTF8, RAGGED, bytes_of
from skipwise.datapipes.prepare.sources import FLAGS, NAMED, Source, open_bytes, quoting

REPEATED, DISORDERED, TWO_FILES = 101, 102, 103
SKIP, CUT, SESSION, STOP = 1, 2, 3, 4
POLICIES = {"skip": SKIP, "cut": CUT, "session": SESSION, "stop": STOP}
REMEDY = "fix the row, leave it out with --on-error skip, or drop its session with --on-error session"
MISSING_TRACK = "leave such rows out with --on-missing-track skip"


class Fault(NamedTuple):
    """One check of a row."""

    reason: str
    """Its name in the manifest."""
    role: str | None
    """The column to show."""
    condition: str
    """SQL over the columns of the parsed rows, see `staging.PARSED`."""
    expected: str
    """The end of the sentence but the remedy."""


FLAG = "expected true, false, 1 or 0"
FRACTION = r"(?i)[+-]?([0-9]+[.][0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?|[+-]?nan"
FAULTS = (
    # A quote that is never closed takes lines into a value.
    Fault(
        "line break in a row",
        None,
        f"mark = {BROKEN} OR broken(session) OR broken(track)",
        "expected every quote closed on its line",
    ),
    Fault("wrong number of fields", None, f"mark = {RAGGED}", "expected as many fields as columns"),
    Fault("not UTF-8", None, f"mark = {NOT_UTF8}", "expected text in UTF-8"),
    Fault("no session id", "session", "missing(session)", "expected a session id"),
    Fault("session id too long", "session", "strlen(session) > 1024", "expected at most 1024 bytes"),
    Fault("no track id", "track", "missing(track)", "expected a track id"),
    Fault("track id too long", "track", "strlen(track) > 1024", "expected at most 1024 bytes"),
    Fault(
        "order is not a number",
        "order",
        "place IS NULL OR NOT isfinite(place)",
        f"expected {DATES}",
    ),
    *(
        Fault(f"{role} is not a flag", role, f"{role}_flag IS NULL AND NOT missing({role})", f"{FLAG}, or nothing")
        for role in ("skip", *FLAGS, "not_skipped")
    ),
    Fault(
        "contradictory skip flags",
        "skip_1",
        "(skip_1_flag AND NOT skip_2_flag) OR (skip_2_flag AND NOT skip_3_flag)",
        "expected skip_1 to imply skip_2 and skip_2 to imply skip_3",
    ),
    Fault(
        "contradictory skip flags",
        "not_skipped",
        "not_skipped_flag AND skip_3_flag",
        "expected false beside a skip flag",
    ),
    Fault(
        "skip strength is not 0 to 3",
        "skip_strength",
        "NOT missing(skip_strength) AND (level IS NULL OR level NOT IN (0, 1, 2, 3))",
        "expected 0, 1, 2 or 3, or nothing",
    ),
    Fault(
        "rating is not a number",
        "rating",
        "NOT missing(rating) AND (level IS NULL OR NOT isfinite(level))",
        "expected a number, or nothing",
    ),
    Fault(
        "hour_of_day is not an hour",
        "hour_of_day",
        "hour_of_day <> '' AND (hour IS NULL OR hour NOT BETWEEN 0 AND 23)",
        "expected 0 to 23, or nothing",
    ),
    *(
        Fault(f"{role} is not a flag", role, f"{role} <> '' AND {role}_flag IS NULL", f"{FLAG}, or nothing")
        for role in ("premium", "shuffle")
    ),
    *(
        Fault(
            "context is no category",
            role,
            f"regexp_full_match(trim({role}), '{FRACTION}') OR strlen({role}) > 1024 OR broken({role})",
            "expected a word of at most 1024 bytes, a whole number, a flag or nothing",
        )
        for role in NAMED
    ),
)
"""The checks of a row that has their role; a fault's code is its place, from 1. A row that fails the first is never
dropped: it may contain others."""
REASONS = {
    **{code: fault.reason for code, fault in enumerate(FAULTS, 1)},
    REPEATED: "position twice in a session",
    DISORDERED: "positions out of order",
    TWO_FILES: "session in two files",
}
NO_TRACK, NO_ORDER = (
    next(code for code, fault in enumerate(FAULTS, 1) if fault.reason == reason)
    for reason in ("no track id", "order is not a number")
)


def policies(config: PrepareConfig) -> dict[int, int]:
    """From the code of each fault to what is done at it: `SKIP`, `CUT`, `SESSION` or `STOP`.

    A session in two files has no row that is bad: where rows are left out, it is dropped.
    """
    of = dict.fromkeys(REASONS, POLICIES[config.on_error])
    return of | {
        1: STOP,
        NO_TRACK: POLICIES[config.on_missing_track or config.on_error],
        TWO_FILES: max(of[TWO_FILES], SESSION),
    }


def row_error(source: Source, row: int | None, fault: Fault) -> UserError:
    """Returns the error of a bad row; a `row` of None means the first line with a wrong number of fields."""
    over_lines = fault is FAULTS[0]
    place, fields = locate(source, row, over_lines)
    where = f"{source.path}, {place}"
    if over_lines:
        return UserError(f"{where} goes on over a line break: {fault.expected}; fix the file")
    if row is None:
        return UserError(f"{where} has {len(fields)} fields: expected {len(source.names)} as its columns; {REMEDY}")
    if fault.role is None:
        return UserError(f"{where} has bytes that are not UTF-8: {fault.expected}; {REMEDY}")
    name = source.roles[fault.role]
    value = fields[source.names.index(name)]
    remedy = MISSING_TRACK if fault is FAULTS[NO_TRACK - 1] else REMEDY
    if fault.condition == f"missing({fault.role})" and (value or "").strip():
        remedy += "; if it is a name, --null '' says that only an empty field is missing"
    return UserError(f"{where}: {name} is {shown(value)}: {fault.expected}; {remedy}")


def order_error(source: Source, row: int, previous: int, code: int) -> UserError:
    """Returns the error of a row whose order value is not greater than that of the session's row before."""
    place, fields = locate(source, row)
    earlier, fields_before = locate(source, previous)
    order, track = source.roles["order"], source.names.index(source.roles["track"])
    again = code == REPEATED and fields[track] == fields_before[track]
    twice = ", and leave out repeated plays with --drop-duplicate-plays" if again else ""
    session, value = (shown(fields[source.names.index(name)]) for name in (source.roles["session"], order))
    what = f"is in {earlier} already" if code == REPEATED else f"comes after a greater one in {earlier}"
    return UserError(
        f"{source.path}, {place}: {order} {value} of session {session} {what}: expected it to grow from row to "
        f"row; sort the rows with --sort{twice}, or leave the row out with --on-error skip"
    )


def shown(value: str | None) -> str:
    """Returns a value as messages show it: quoted and short."""
    if not value:
        return "empty"
    return f"'{value}'" if len(value) <= 40 else f"'{value[:30]}...' ({len(value):,} characters)"


def locate(source: Source, row: int | None, over_lines: bool = False) -> tuple[str, list[str | None]]:
    """Returns "line N" or "row N" as an editor or a table viewer counts, and the fields of the row.

    Where `row` is None: of the first one with a wrong number of fields or, where `over_lines`, with a line break.
    """
    if source.suffix == ".parquet" and row is not None:
        return f"row {row + 1}", parquet_row(source, row)
    limit = csv.field_size_limit(1 << 30)
    try:
        with open_bytes(source.path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace", newline="")
            for number, (line, fields) in enumerate(records(text, source)):
                ragged = len(fields) != len(source.names)
                unclosed = any("\n" in field for field in fields)
                if (number == row and not ragged) or (row is None and (unclosed if over_lines else ragged)):
                    return f"line {line}", [*fields]
    finally:
        csv.field_size_limit(limit)
    raise UserError(
        f"{source.path} has quotes that can be read in two ways: expected them around whole fields, and doubled "
        f"inside; fix the file"
    )


def records(text: io.TextIOWrapper, source: Source) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a text file but blank lines and the header, each with the number of its first line."""
    reader = csv.reader(text, delimiter=source.delimiter, quoting=quoting(source.suffix))
    start = 1
    for number, fields in enumerate(filter(None, reader)):
        if number > 0 or not source.header:
            yield start, fields
        start = reader.line_num + 1


def parquet_row(source: Source, row: int) -> list[str | None]:
    """Returns one row of a Parquet file as text, None for columns without a role."""
    names = [*dict.fromkeys(source.roles.values())]
    with open_table(source.path) as file:
        sizes, group = file.group_rows, 0
        while row >= sizes[group]:
            row, group = row - sizes[group], group + 1
        table = file.group(group, names).slice(row, 1).combine_chunks()
    values = {name: bytes_of(table[name].chunk(0))[0].as_py() for name in names}
    texts = {name: value and value.decode(errors="backslashreplace") for name, value in values.items()}
    return [texts.get(name) for name in source.names]
