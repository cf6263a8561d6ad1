"""The rows of one file as Arrow batches of text: a column a role, `row` (from 0) and `mark`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from skipwise.common.errors import UserError
from skipwise.common.tables import open_table
from skipwise.datapipes.prepare.config import NULLS
from skipwise.datapipes.prepare.sources import Source
from skipwise.datapipes.session_files import DAMAGED

FINE, NOT_UTF8, RAGGED, BROKEN = range(4)
BLOCK = 16 << 20
PARQUET_BATCH = 1 << 17
RAGGED_BATCH = 1 << 16


def schema_of(source: Source) -> pa.Schema:
    """Returns the schema of the batches of `read`; `mark` flags the rows that could not be read unchanged."""
    fields = [("row", pa.int64()), ("mark", pa.uint8())]
    return pa.schema(fields + [(role, pa.string()) for role in source.roles])


def read(source: Source, advance: Callable[[int], object], nulls: Sequence[str] = NULLS) -> Iterator[pa.RecordBatch]:
    """Yields the rows of `source` in order and calls `advance` with the number of bytes read.

    `nulls`: unquoted texts of a text file that mean a missing value; an empty field is one as well.

    Rows with a wrong number of fields come after those around them, without a row number. Raises `UserError` for a
    file that is cut short, holds no rows, or is no table at all.
    """
    chunks = parquet_batches(source, advance) if source.suffix == ".parquet" else text_batches(source, advance, nulls)
    row = unnumbered = 0
    for columns, mark in chunks:
        size = len(columns[0])
        if mark in (RAGGED, BROKEN):
            numbers, unnumbered = pa.nulls(size, pa.int64()), unnumbered + size
        else:
            numbers, row = pa.array(np.arange(row, row + size)), row + size
        marks = np.full(size, mark, dtype=np.uint8)
        texts = [decode(column, marks) for column in columns]
        yield pa.record_batch([numbers, pa.array(marks), *texts], schema=schema_of(source))
    if row + unnumbered == 0:
        raise UserError(f"{source.path} has no rows: expected one a play, or leave the file out")


def text_batches(
    source: Source, advance: Callable[[int], object], nulls: Sequence[str]
) -> Iterator[tuple[list[pa.Array], int]]:
    """Reads a text file in blocks; the columns are the bytes of the file."""
    labels = [str(index) for index in range(len(source.names))]
    wanted = [str(source.names.index(name)) for name in source.roles.values()]
    ragged: list[str] = []

    def keep(row: pa.csv.InvalidRow) -> str:
        ragged.append(row.text)
        return "skip"

    try:
        file = pa.OSFile(str(source.path))
        stream = pa.CompressedInputStream(file, "gzip") if source.path.suffix == ".gz" else file
        with undecodable(keep) as lost, file, stream:
            reader = pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(column_names=labels, skip_rows=int(source.header), block_size=BLOCK),
                parse_options=pa.csv.ParseOptions(
                    delimiter=source.delimiter,
                    quote_char='"' if source.suffix == ".csv" else False,
                    newlines_in_values=source.suffix == ".csv",
                    invalid_row_handler=keep,
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types={label: pa.binary() for label in wanted},
                    include_columns=list(dict.fromkeys(wanted)),
                    null_values=["", *nulls],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            done = 0
            for batch in reader:
                position = file.tell()
                advance(position - done)
                done = position
                if len(batch):
                    yield [batch.column(label) for label in wanted], FINE
                while len(ragged) >= RAGGED_BATCH:
                    yield ragged_rows(ragged[:RAGGED_BATCH], wanted, source.delimiter)
                    del ragged[:RAGGED_BATCH]  # Arrow's thread may have added more
    except OSError:
        raise damaged(source) from None
    except pa.ArrowInvalid as error:
        if lost:
            row = lost[0].decode(errors="backslashreplace")
            raise UserError(
                f"{source.path} has a row of a wrong number of fields that is not UTF-8 either, '{row[:60]}': "
                f"expected {len(source.names)} fields as its columns; fix the row"
            ) from None
        what = "cannot be read as a table"
        if "straddling" in str(error):
            what = "holds a line of tens of megabytes, or a quote that is never closed"
        raise UserError(f"{source.path} {what}: expected a play a line") from None
    if ragged:
        yield ragged_rows(ragged, wanted, source.delimiter)


def ragged_rows(lines: list[str], wanted: list[str], delimiter: str) -> tuple[list[pa.Array], int]:
    """The columns of rows of a wrong number of fields, as far as they have them."""
    rows = [text.encode().split(delimiter.encode()) for text in lines]
    columns = [[row[int(label)] if int(label) < len(row) else None for row in rows] for label in wanted]
    mark = BROKEN if any("\n" in text for text in lines) else RAGGED
    return [pa.array(column, pa.binary()) for column in columns], mark


@contextmanager
def undecodable(handler: Callable[[pa.csv.InvalidRow], str]) -> Iterator[list[bytes]]:
    """Collects the rows that Arrow cannot decode for its `handler`, and would print a traceback for."""
    lost: list[bytes] = []
    before = sys.unraisablehook

    def keep(unraisable: Any) -> None:
        if unraisable.object is handler and isinstance(unraisable.exc_value, UnicodeDecodeError):
            lost.append(unraisable.exc_value.object)
        else:
            before(unraisable)

    sys.unraisablehook = keep
    try:
        yield lost
    finally:
        sys.unraisablehook = before


def parquet_batches(source: Source, advance: Callable[[int], object]) -> Iterator[tuple[list[pa.Array], int]]:
    """Reads a Parquet file; the columns are the bytes of their text, of numbers and booleans too."""
    names = source.roles.values()
    size = source.path.stat().st_size
    try:
        with open_table(source.path) as file:
            for batch in file.batches(PARQUET_BATCH, list(dict.fromkeys(names)), use_threads=True):
                advance(size * len(batch) // file.metadata.num_rows)
                yield [bytes_of(batch.column(name)) for name in names], FINE
    except DAMAGED:
        raise damaged(source) from None


def damaged(source: Source) -> UserError:
    """Returns the error of a file whose content ends early or does not decode."""
    return UserError(f"{source.path} is cut short or damaged: copy it again")


def bytes_of(column: pa.Array) -> pa.BinaryArray:
    """Returns a column of a Parquet file as the bytes of its text, which may not be UTF-8.

    Arrow has a text of all but nested types, which `sources.inspect` refuses. NaN is a missing value.
    """
    kind, types = column.type, pa.types
    if types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return pc.cast(column if binary else pc.cast(column, pa.string()), pa.binary())


def decode(column: pa.Array, marks: np.ndarray) -> pa.Array:
    """Converts bytes to text, and marks the rows that are not UTF-8, whose bad bytes become escapes."""
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        values = column.to_pylist()
        texts = [None if value is None else value.decode(errors="backslashreplace") for value in values]
        escaped = [text is not None and text.encode() != value for text, value in zip(texts, values, strict=True)]
        marks[escaped] = NOT_UTF8
        return pa.array(texts, pa.string())
