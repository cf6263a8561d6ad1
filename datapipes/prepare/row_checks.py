"""The checks of one row, and the messages of those that fail."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow.parquet as pq

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.read_rows import BROKEN, NOT_UTF8, RAGGED, bytes_of
from skipwise.datapipes.prepare.sources import FLAGS, Source, quoting

LONGEST_ID = 1024
REPEATED, DISORDERED, TWO_FILES = 101, 102, 103
REMEDY = "fix the row, or drop its session with --on-error skip"


class Fault(NamedTuple):
    """One check of a row."""

    reason: str
    """Its name in the manifest."""
    role: str | None
    """The column to show."""
    condition: str
    """SQL over the columns of the parsed rows, see `staging.parsed`."""
    expected: str
    """The end of the sentence."""
    fatal: bool = False
    """Never dropped: the row may contain others."""


SESSION_FAULTS = {
    REPEATED: "position twice in a session",
    DISORDERED: "positions out of order",
    TWO_FILES: "session in two files",
}


def row_faults(roles: dict[str, str], config: PrepareConfig) -> list[Fault]:
    """Returns the checks of one row in order; a fault's code is its index, from 1."""
    faults = [
        Fault("line break in a row", None, f"mark = {BROKEN}", "expected every quote closed on its line", True),
        Fault("wrong number of fields", None, f"mark = {RAGGED}", "expected as many fields as columns"),
        Fault("not UTF-8", None, f"mark = {NOT_UTF8}", "expected text in UTF-8"),
    ]
    for role, noun in (("session", "session id"), ("track", "track id")):
        faults.append(Fault(f"no {noun}", role, f"missing({role})", f"expected a {noun}"))
        long = f"strlen({role}) > {LONGEST_ID}"
        faults.append(Fault(f"{noun} too long", role, long, f"expected at most {LONGEST_ID} bytes"))
    if "order" in roles:
        bad = "place IS NULL OR NOT isfinite(place)"
        faults.append(Fault("order is not a number", "order", bad, "expected a number or a date and time"))
    for role in ("skip", *FLAGS, "not_skipped"):
        if role in roles:
            faults.append(Fault(f"{role} is not a flag", role, f"{role}_flag IS NULL", "expected true, false, 1 or 0"))
    if "skip_1" in roles:
        nested = "(skip_1_flag AND NOT skip_2_flag) OR (skip_2_flag AND NOT skip_3_flag)"
        expected = "expected skip_1 to imply skip_2 and skip_2 to imply skip_3"
        faults.append(Fault("contradictory skip flags", "skip_1", nested, expected))
    if "not_skipped" in roles:
        both = "not_skipped_flag AND skip_3_flag"
        faults.append(Fault("contradictory skip flags", "not_skipped", both, "expected false beside a skip flag"))
    if "skip_strength" in roles:
        bad = "level IS NULL OR level NOT IN (0, 1, 2, 3)"
        faults.append(Fault("skip strength is not 0 to 3", "skip_strength", bad, "expected 0, 1, 2 or 3"))
    if "rating" in roles:
        bad = "level IS NULL OR NOT isfinite(level)"
        faults.append(Fault("rating is not a number", "rating", bad, "expected a number"))
    if "hour_of_day" in roles:
        bad = "hour_of_day <> '' AND (hour IS NULL OR hour NOT BETWEEN 0 AND 23)"
        faults.append(Fault("hour_of_day is not an hour", "hour_of_day", bad, "expected 0 to 23, or nothing"))
    for role in ("premium", "shuffle"):
        if role in roles:
            bad = f"{role} <> '' AND {role}_flag IS NULL"
            faults.append(Fault(f"{role} is not a flag", role, bad, "expected true, false, 1, 0, or nothing"))
    return faults


def row_error(source: Source, row: int | None, fault: Fault) -> UserError:
    """Returns the error of a bad row; a `row` of None means the first line with a wrong number of fields."""
    over_lines = fault.role is None and fault.fatal
    line, fields = locate(source, row, broken if over_lines else None)
    where = f"{source.path}, {counted(source)} {line}"
    remedy = "fix the file" if fault.fatal else REMEDY
    if over_lines:
        return UserError(f"{where} goes on over a line break: {fault.expected}; {remedy}")
    if row is None:
        return UserError(f"{where} has {len(fields)} fields: expected {len(source.names)} as its columns; {remedy}")
    if fault.role is None:
        return UserError(f"{where} has bytes that are not UTF-8: {fault.expected}; {remedy}")
    name = source.roles[fault.role]
    value = shown(fields[source.names.index(name)])
    return UserError(f"{where}: {name} is {value}: {fault.expected}; {remedy}")


def order_error(source: Source, row: int, previous: int, code: int) -> UserError:
    """Returns the error of a row whose order value is not greater than that of the session's row before."""
    line, fields = locate(source, row)
    earlier, _ = locate(source, previous)
    count = counted(source)
    order = source.roles["order"]
    session, place = (shown(fields[source.names.index(name)]) for name in (source.roles["session"], order))
    what = f"is in {count} {earlier} already" if code == REPEATED else f"comes after a greater one in {count} {earlier}"
    return UserError(
        f"{source.path}, {count} {line}: {order} {place} of session {session} {what}: expected it to grow from row to "
        f"row; sort the rows with --sort, or drop the session with --on-error skip"
    )


def counted(source: Source) -> str:
    """Returns what messages call a row of the file."""
    return "row" if source.suffix == ".parquet" else "line"


def broken(fields: list[str | None]) -> bool:
    """Whether a row goes on over several lines."""
    return any("\n" in field for field in fields if field)


def shown(value: str | None) -> str:
    """Returns a value as messages show it: quoted and short."""
    if not value:
        return "empty"
    return f"'{value}'" if len(value) <= 40 else f"'{value[:30]}...' ({len(value):,} characters)"


def locate(
    source: Source, row: int | None, bad: Callable[[list[str | None]], bool] | None = None
) -> tuple[int, list[str | None]]:
    """Returns the number of a row as an editor or a table viewer counts, and its fields.

    Where `row` is None it is the first that is `bad`, which by default means a wrong number of fields.
    """
    bad = bad or (lambda fields: len(fields) != len(source.names))
    if source.suffix == ".parquet" and row is not None:  # its rows all have as many fields
        return row + 1, parquet_row(source, row)
    limit = csv.field_size_limit(1 << 30)
    try:
        with source.open() as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="backslashreplace", newline="")
            records = enumerate_records(text, source)
            if row is None:
                found = next(((line, fields) for line, fields in records if bad(fields)), None)
            else:
                found = next(itertools.islice(records, row, None), None)
    finally:
        csv.field_size_limit(limit)
    if found is None or (row is not None and len(found[1]) != len(source.names)):
        raise UserError(
            f"{source.path} has quotes that can be read in two ways: expected them around whole fields, and doubled "
            f"inside; fix the file"
        )
    return found


def enumerate_records(text: io.TextIOWrapper, source: Source) -> Iterator[tuple[int, list[str | None]]]:
    """Yields the rows of a text file, each with the number of its first line."""
    reader = csv.reader(text, delimiter=source.delimiter, quoting=quoting(source.suffix))
    start = 1
    for number, fields in enumerate(filter_blank(reader)):
        if number > 0 or not source.header:
            yield start, [*fields]
        start = reader.line_num + 1


def filter_blank(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Returns the records that are not blank lines."""
    return (fields for fields in reader if fields)


def parquet_row(source: Source, row: int) -> list[str | None]:
    """Returns one row of a Parquet file as text, None for columns without a role."""
    names = [*dict.fromkeys(source.roles.values())]
    with pq.ParquetFile(source.path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row < size:
                table = file.read_row_group(group, columns=names).slice(row, 1).combine_chunks()
                values = {name: bytes_of(table[name].chunk(0), source, name)[0].as_py() for name in names}
                texts = {name: value and value.decode(errors="backslashreplace") for name, value in values.items()}
                return [texts.get(name) for name in source.names]
            row -= size
    raise IndexError(row)
