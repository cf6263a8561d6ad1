"""The checks of one row, and the messages of those that fail."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError, printable
from skipwise.datapipes.nested import joined_ids
from skipwise.datapipes.prepare.column_roles import CONTEXT, FLAGS, NAMED
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.log_files import reader_of
from skipwise.datapipes.prepare.log_source import Source
from skipwise.datapipes.prepare.places import expected_place
from skipwise.datapipes.prepare.read_rows import parts_of
from skipwise.datapipes.prepare.record_parts import decode
from skipwise.datapipes.prepare.row_marks import BROKEN, NOT_JSON, NOT_UTF8, RAGGED, UNEQUAL, UNFIT
from skipwise.datapipes.prepare.times import DATES

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
    """SQL over the columns of the parsed rows, see `row_values.PARSED`."""
    expected: str
    """The end of the sentence but the remedy."""
    beside: str | None = None
    """Another role that it needs."""


LONGEST_ID = 1024
FLAG = "expected true, false, 1 or 0"
FRACTION = r"(?i)[+-]?([0-9]+[.][0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?|[+-]?nan"
LARGEST = "1.7976931348623157e308"
MARKS = {
    RAGGED: ("wrong number of fields", "as many fields as columns"),
    NOT_UTF8: ("not UTF-8", "text in UTF-8, as iconv -f latin1 -t utf-8 makes it"),
    UNEQUAL: ("lists of different lengths", "as many values in each"),
    UNFIT: ("not as --where reads its column", "the kind of value of the first rows"),
    NOT_JSON: ("not JSON", "a JSON object"),
}
"""What is wrong with rows of these marks, and what was expected."""
NUMBERS = {
    "played": ("played is not a time", f"BETWEEN 0 AND {LARGEST}", "a number from 0"),
    "duration": ("duration is not a time", f"BETWEEN 0 AND {LARGEST}", "a number from 0"),
    "skip_strength": ("skip strength is not 0 to 3", "IN (0, 1, 2, 3)", "0, 1, 2 or 3"),
    "rating": ("rating is not a number", f"BETWEEN -{LARGEST} AND {LARGEST}", "a number"),
}
"""What is wrong with other numbers of these roles than those of the SQL, above which NaN lies too."""
CONTRADICTORY, ALONE = "contradictory skip flags", "expected false beside a skip flag"
STEPS = "expected skip_1 to imply skip_2 and skip_2 to imply skip_3"
NO_WORD = "expected a word of at most 1024 bytes, a whole number, a flag or nothing"
FAULTS = (
    # A quote that is never closed takes lines into a value.
    Fault(
        "line break in a row",
        None,
        f"mark = {BROKEN}",
        "expected every quote closed on its line",
    ),
    *(Fault(reason, None, f"mark = {mark}", f"expected {what}") for mark, (reason, what) in MARKS.items()),
    Fault("no session id", "session", "missing(session)", "expected a session id"),
    Fault("session id too long", "session", f"strlen(session) > {LONGEST_ID}", f"expected at most {LONGEST_ID} bytes"),
    Fault("no track id", "track", "missing(track)", "expected a track id"),
    Fault("track id too long", "track", f"strlen(track) > {LONGEST_ID}", f"expected at most {LONGEST_ID} bytes"),
    Fault("order is not a number", "order", "place IS NULL", f"expected {DATES}"),
    *(
        Fault(f"{role} is not a flag", role, f"{role}_flag IS NULL AND NOT missing({role})", f"{FLAG}, or nothing")
        for role in ("skip", "kept", *FLAGS, "not_skipped")
    ),
    Fault(CONTRADICTORY, "skip_1", "(skip_1_flag AND NOT skip_2_flag) OR (skip_2_flag AND NOT skip_3_flag)", STEPS),
    Fault(CONTRADICTORY, "not_skipped", "not_skipped_flag AND skip_3_flag", ALONE),
    Fault(CONTRADICTORY, "kept", "kept_flag AND skip_flag", ALONE, "skip"),
    *(
        Fault(
            reason,
            role,
            f"NOT missing({role}) AND NOT coalesce({role}_value {fits}, false)",
            f"expected {what}, or nothing",
        )
        for role, (reason, fits, what) in NUMBERS.items()
    ),
    Fault(
        "hour_of_day is not an hour",
        "hour_of_day",
        "hour_of_day <> '' AND NOT coalesce(hour BETWEEN 0 AND 23, false)",
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
            NO_WORD,
        )
        for role in NAMED
    ),
)
"""The checks of a row that has their role; a fault's code is its place, from 1. A row that fails the first is never
dropped: it may contain others."""
IN_ONE_LINE = ("session", "track")
"""Roles of which a value with a line break is the first fault too."""
_OF_MARKS = {fault.condition: code for code, fault in enumerate(FAULTS, 1) if fault.role is None}
FAULTS_OF_MARKS = np.array([_OF_MARKS.get(f"mark = {mark}", 255) for mark in range(UNFIT + 1)], dtype=np.uint8)
"""From each mark to the code of its fault, 255 for none."""
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
        several = [(name, text) for name, text in fields.items() if text and "\n" in text]
        if several and not any(source.layout.delimiter in line for line in several[0][1].splitlines()[1:]):
            column, text = several[0]
            return UserError(
                f"{where} has a line break inside the quotes of {column}, {printable(shown(text))}: expected a value "
                "of one line; fix the file"
            )
        return UserError(f"{where} goes on over a line break: {fault.expected}; fix the file")
    if row is None:
        return UserError(f"{where} has {len(fields)} fields: expected {len(source.names)} as its columns; {REMEDY}")
    if fault.condition == f"mark = {UNFIT}":
        named = list(dict.fromkeys(name for role, name in source.roles.items() if role.startswith("where_")))
        values = " and ".join(f"{name} is {shown(fields[name])}" for name in named if fields[name])
        as_text = f"; or compare texts, such as {named[0]}::VARCHAR = '7'" if source.format != "parquet" else ""
        return UserError(f"{where}: {values}, for --where: {fault.expected}; {REMEDY}{as_text}")
    if fault.role is None:
        what = {"not JSON": "is not JSON", "not UTF-8": "has bytes that are not UTF-8"}
        return UserError(f"{where} {what.get(fault.reason, f'has {fault.reason}')}: {fault.expected}; {REMEDY}")
    name = source.roles[fault.role]
    value = fields[name]
    remedy = MISSING_TRACK if fault is FAULTS[NO_TRACK - 1] else REMEDY
    if fault.condition == f"missing({fault.role})" and (value or "").strip():
        remedy += "; if it is a name, --null '' says that only an empty field is missing"
    elif fault.role in (*CONTEXT, *NAMED):
        remedy += "; or leave the column out of --context"
    elif fault.role in ("skip", "kept") and fault.expected == f"{FLAG}, or nothing":
        number = re.fullmatch(r"[+-]?[0-9.]+", (value or "").strip())
        ways = "--rating and --skip-below" if number else "--reason and --skip-reasons"
        remedy += f"; a column of {'numbers' if number else 'words'} for it is read with {ways}"
    expected = expected_place(value) if fault is FAULTS[NO_ORDER - 1] else fault.expected
    return UserError(f"{where}: {name} is {shown(value)}: {expected}; {remedy}")


def order_error(source: Source, row: int, previous: int, code: int) -> UserError:
    """Returns the error of a row whose order value is not greater than that of the session's row before."""
    place, fields = locate(source, row)
    earlier, fields_before = locate(source, previous)
    order, track = source.roles["order"], source.roles["track"]
    again = code == REPEATED and fields[track] == fields_before[track]
    twice = ", and leave out repeated plays with --drop-duplicate-plays" if again else ""
    session, value = (shown(fields[name]) for name in (source.roles["session"], order))
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


def locate(source: Source, row: int | None, over_lines: bool = False) -> tuple[str, dict[str, str | None]]:
    """Returns "line N" or "row N" as an editor or a table viewer counts, and the fields of the row by their column.

    Where `row` is None: of the first one with a wrong number of fields or, where `over_lines`, with a line break.
    """
    if source.format != "text":
        return locate_play(source, row or 0)
    limit = csv.field_size_limit(1 << 30)
    try:
        with reader_of(source.path, source.layout.encoding, source.layout.escaped) as text:
            for number, (line, fields) in enumerate(records(text, source)):
                ragged = len(fields) != len(source.names)
                unclosed = any("\n" in field for field in fields)
                if (number == row and not ragged) or (row is None and (unclosed if over_lines else ragged)):
                    found: dict[str, str | None] = dict(zip(map(str, range(len(fields))), fields, strict=True))
                    if not ragged:
                        found = fields_of(source, dict(zip(source.names, fields, strict=True)))
                    return f"line {line}", found
    finally:
        csv.field_size_limit(limit)
    raise UserError(
        f"{source.path} has quotes that can be read in two ways: expected them around whole fields, and doubled "
        f"inside; fix the file"
    )


def records(text: io.TextIOWrapper, source: Source) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a text file but blank lines and the header, each with the number of its first line."""
    layout = source.layout
    if len(layout.delimiter) > 1:
        lines = (line.rstrip("\r\n") for line in text)
        rows = ((number, line.split(layout.delimiter)) for number, line in enumerate(lines, 1) if line)
        yield from islice(rows, layout.first, None)
        return
    reader = csv.reader(text, delimiter=layout.delimiter, quoting=layout.quoting)
    start = 1
    for number, fields in enumerate(filter(None, reader)):
        if number >= layout.first:
            yield start, fields
        start = reader.line_num + 1


def locate_play(source: Source, row: int) -> tuple[str, dict[str, str | None]]:
    """Returns "row N" of Parquet or "line N", with the place of the play where a row holds several, and its fields."""
    done = 0
    for part in parts_of(source, lambda size: None):
        if row < len(part.marks):
            number = int(part.parent[row])
            place = f"line {part.records.line(number)}" if part.records else f"row {done + number + 1}"
            first, last = np.searchsorted(part.parent, [number, number + 1]).tolist()
            if last - first > 1:
                place += f", play {row - first + 1}"
            values = [decode(column.slice(row, 1), np.zeros(1, np.uint8))[0].as_py() for column in part.columns]
            return place, fields_of(source, dict(zip(source.read_names, values, strict=True)))
        row, done = row - len(part.marks), done + part.size
    raise UserError(f"{source.path} has changed while it was read: start again")


def fields_of(source: Source, fields: dict[str, str | None]) -> dict[str, str | None]:
    """Returns the fields of a row with those that are fixed or made of several."""
    fields = {**fields, **source.fixed}
    for name, parts in source.joined.items():
        fields[name] = joined_ids([pa.array([fields.get(part)], pa.string()) for part in parts])[0].as_py()
    return fields
