"""The records of a file that is no table of text, as rows: of JSON, or lines of a session's tracks."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from skipwise.common.console import note
from skipwise.datapipes.nested import bytes_of, coded_bytes, flat, plays_of
from skipwise.datapipes.prepare.cut_records import Records, line_records, records_of
from skipwise.datapipes.prepare.json_rows import SAMPLE, JsonReader, json_records
from skipwise.datapipes.prepare.log_source import Source
from skipwise.datapipes.prepare.row_marks import FINE, NOT_JSON, NOT_UTF8, UNEQUAL


class Part(NamedTuple):
    """Some rows of a file, in order."""

    columns: list[pa.Array]
    """Those of `Source.read_names`, as bytes."""
    marks: np.ndarray
    """uint8: what is wrong with each row."""
    numbered: bool = True
    """Whether it is known where in the file they are."""
    parent: np.ndarray = np.empty(0, np.int64)
    """int64: but for `text`, the record that holds each play, counted from the first of this part."""
    size: int = 0
    """But for `text`: records of this part."""
    records: Records | None = None
    """The records themselves, where they are lines or JSON."""

    def behind(self, rows: int) -> "Part":
        """Returns a part of a table of text without its first rows."""
        return self._replace(columns=[column.slice(rows) for column in self.columns], marks=self.marks[rows:])


def json_parts(source: Source, advance: Callable[[int], object]) -> Iterator[Part]:
    """Reads a JSON file; numbers and booleans as their text."""
    found = [source.leaves[name].path for name in source.read_names]
    reader = JsonReader(source.shape, {*found})
    seen = {part for leaf in source.leaves.values() for part in leaf.path}
    keys = {name: f'"{key}"'.encode() for name in source.missed if (key := name.rpartition(".")[2]) not in seen}
    for records in json_records(source.path, source.layout.encoding, advance):
        for name in [name for name, key in keys.items() if has_key(records.data, key)]:
            del keys[name]
            note(
                f"warning: {source.path} has the field '{name}' only behind the records that are looked at first "
                f"({SAMPLE:,} at most), and it is not read: give an early record that field, with null"
            )
        marks = np.full(len(records.starts), FINE, np.uint8)
        values = reader.read(decode(pa.array(records.texts(), pa.binary()), marks))
        marks[(marks == FINE) & values.is_null().to_numpy(zero_copy_only=False)] = NOT_JSON
        part = part_of([flat(values, path) for path in found], len(marks), marks)
        yield part._replace(records=records)


def has_key(data: bytes, key: bytes) -> bool:
    """Whether JSON has this key, in its quotes."""
    return key in data and re.search(re.escape(key) + rb"\s*:", data) is not None


def sequence_parts(source: Source, advance: Callable[[int], object]) -> Iterator[Part]:
    """Reads lines of a session id and tracks."""
    delimiter = source.layout.delimiter
    for records in records_of(source.path, source.layout.encoding, line_records, advance):
        marks = np.full(len(records.starts), FINE, np.uint8)
        texts = pc.utf8_trim_whitespace(decode(pa.array(records.texts(), pa.binary()), marks))
        split = pc.utf8_split_whitespace(texts) if delimiter == " " else pc.split_pattern(texts, delimiter)
        session, tracks = (pc.list_element(split, 0), None), flat(pc.list_slice(split, 1), ())
        columns = dict(zip(source.names, (session, tracks), strict=True))
        part = part_of([columns[name] for name in source.read_names], len(marks), marks)
        yield part._replace(records=records)


def part_of(
    columns: list[tuple[pa.Array, np.ndarray | None]],
    size: int,
    marks: np.ndarray | None = None,
    coded: Sequence[bool] = (),
) -> Part:
    """Returns the plays of records, whose columns may be lists of different lengths by mistake; `coded`: of each
    column, whether it comes as a dictionary."""
    plays = plays_of(columns, size)
    found = np.full(len(plays.parent), FINE, np.uint8) if marks is None else marks[plays.parent]
    found[plays.unequal] = UNEQUAL
    coded = coded or [False] * len(columns)
    texts = [(coded_bytes if of else bytes_of)(column) for column, of in zip(plays.columns, coded, strict=True)]
    return Part(texts, found, True, plays.parent, size)


def decode(column: pa.Array, marks: np.ndarray) -> pa.Array:
    """Converts bytes to text, and marks the rows that are not UTF-8, whose bad bytes become escapes."""
    if pa.types.is_dictionary(column.type):
        of_values = np.zeros(len(column.dictionary) + 1, marks.dtype)
        texts = decode(column.dictionary, of_values[:-1])
        if of_values.any():
            marks[of_values[column.indices.fill_null(-1).to_numpy()] == NOT_UTF8] = NOT_UTF8
        return pa.DictionaryArray.from_arrays(column.indices, texts)
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        values = column.to_pylist()
        texts = [None if value is None else value.decode(errors="backslashreplace") for value in values]
        escaped = [text is not None and text.encode() != value for text, value in zip(texts, values, strict=True)]
        marks[escaped] = NOT_UTF8
        return pa.array(texts, pa.string())


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
