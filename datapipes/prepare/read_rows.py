"""The rows of one file as Arrow batches of text: a column a role, `row` (from 0) and `mark`."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from skipwise.common.console import Farthest
from skipwise.common.errors import UserError
from skipwise.common.tables import open_table
from skipwise.datapipes.nested import flat, is_spread, joined_ids
from skipwise.datapipes.prepare.column_roles import CONTEXT, FLAGS, NAMED
from skipwise.datapipes.prepare.config import NULLS
from skipwise.datapipes.prepare.log_files import DAMAGED, damaged, open_log
from skipwise.datapipes.prepare.log_source import Source
from skipwise.datapipes.prepare.name_options import is_name
from skipwise.datapipes.prepare.record_parts import Part, decode, json_parts, part_of, sequence_parts, undecodable
from skipwise.datapipes.prepare.row_marks import BROKEN, FINE, RAGGED
from skipwise.datapipes.prepare.skip_options import SKIPS
from skipwise.datapipes.session_files import DAMAGED as TABLE_DAMAGED

SMALL_BLOCK, BLOCK = 4 << 20, 16 << 20
"""Bytes of a text file that are read at once: what Arrow makes of a small block is still in the cache."""
PARQUET_BATCH = 1 << 17
RAGGED_BATCH = 1 << 16
MANY = ("order", "played", "duration")
"""Roles of columns that may have another value in each row."""
FEW = tuple({"session", *SKIPS, *FLAGS, "not_skipped", *CONTEXT, *NAMED} - {*MANY})
"""Roles of columns that have a value in many rows."""
CODED = pa.dictionary(pa.int32(), pa.binary())
"""The type of a column that holds each of its texts once."""
INSTEAD = "\x1f"
"""What Arrow is given for a delimiter of several characters."""


def schema_of(source: Source) -> pa.Schema:
    """Returns the schema of the batches of `read`; `mark` flags the rows that could not be read unchanged."""
    fields = [("row", pa.int64()), ("mark", pa.uint8())]
    return pa.schema(fields + [(role, pa.string()) for role in source.roles])


def read(
    source: Source, advance: Callable[[int], object], nulls: Sequence[str] = NULLS, coded: bool = False
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of `source` in order and calls `advance` with the number of bytes read.

    `nulls`: unquoted texts of a text file that mean a missing value; an empty field is one as well. `coded`: texts come
    as dictionaries, each of those of one batch, but for places and times played where hardly two are equal.

    Rows with a wrong number of fields come after those around them, without a row number. Raises `UserError` for a
    file that is cut short, holds no rows, or is no table at all.
    """
    row = unnumbered = 0
    # A bad name spoils no play.
    of_plays = {column for role, name in source.roles.items() if not is_name(role) for column in source.parts(name)}
    # Arrow's reader of CSV codes columns of many values more slowly than `dictionary_encode` does.
    many = source.roles.keys() - FEW if source.format == "text" else ()
    plain = {source.roles[role] for role in many} | {part for parts in source.joined.values() for part in parts}
    kinds = {name: CODED for name in source.read_names if coded and name not in plain}
    for part in parts_of(source, advance, nulls, kinds):
        size = len(part.marks)
        if part.numbered:
            numbers, row = pa.array(np.arange(row, row + size)), row + size
        else:
            numbers, unnumbered = pa.nulls(size, pa.int64()), unnumbered + size
        marks = part.marks
        texts = {
            name: decode(of, marks if name in of_plays else np.zeros_like(marks))
            for name, of in zip(source.read_names, part.columns, strict=True)
        }
        for name in texts.keys() - of_plays if source.format == "text" else ():
            marks[swallowed(texts[name], source)] = BROKEN
        columns = [column_of(source, name, texts, size) for name in source.roles.values()]
        if coded:
            columns = [
                column if role in MANY and is_spread(column) else column.dictionary_encode()
                for role, column in zip(source.roles, columns, strict=True)
            ]
        batch = pa.record_batch([numbers, pa.array(marks), *columns], names=schema_of(source).names)
        yield without_blank(batch, texts) if source.format == "text" else batch
    if row + unnumbered == 0:
        raise UserError(f"{source.path} has no rows: expected one a play, or leave the file out")


def parts_of(
    source: Source,
    advance: Callable[[int], object],
    nulls: Sequence[str] = NULLS,
    kinds: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> Iterator[Part]:
    """Yields the rows of `source` as `read` does, with what tells where they are in the file.

    `kinds`: the types of columns, bytes where none is named.
    """
    if source.format == "text":
        return text_parts(source, advance, nulls, kinds)
    if source.format == "parquet":
        return parquet_parts(source, advance, kinds)
    return (json_parts if source.format == "json" else sequence_parts)(source, advance)


def swallowed(text: pa.Array, source: Source) -> np.ndarray:
    """Returns which names have a whole row behind a line break: a quote that was not closed has taken it in."""
    row = "\n" + f"[^\n]*{re.escape(source.layout.delimiter)}" * (len(source.names) - 1)
    return on_values(text, lambda texts: pc.match_substring_regex(texts, row)).to_numpy(zero_copy_only=False)


def on_values(column: pa.Array, test: Callable[[pa.Array], pa.Array], of_null: bool = False) -> pa.Array:
    """Returns what a test says of each value; a coded column is tested by its different values."""
    if not pa.types.is_dictionary(column.type):
        return pc.fill_null(test(column), of_null)
    passes = test(column.dictionary)
    if not (pc.any(passes).as_py() or (of_null and column.null_count)):
        return pa.repeat(False, len(column))
    return pc.fill_null(passes.take(column.indices), of_null)


def column_of(source: Source, name: str, texts: dict[str, pa.Array], size: int) -> pa.Array:
    """Returns a column of `source`, which may be of one value or made of several columns."""
    if name in source.joined:
        return joined_ids([column_of(source, part, texts, size) for part in source.joined[name]])
    return pa.repeat(pa.scalar(source.fixed[name], pa.string()), size) if name in source.fixed else texts[name]


def without_blank(batch: pa.RecordBatch, texts: dict[str, pa.Array]) -> pa.RecordBatch:
    """Leaves out the rows that have nothing in any column that is read, as spreadsheets write at their end, and those
    that are the header line again, as joined files have it."""
    for is_header in (False, True):
        found = pa.repeat(pa.scalar(len(texts) > 1), len(batch))  # a missing track alone is a bad row
        for name, text in texts.items():
            if pc.any(found).as_py():
                wanted = name if is_header else ""
                found = pc.and_(found, on_values(text, partial(pc.equal, pa.scalar(wanted)), of_null=not is_header))
        if pc.any(found).as_py():
            keeps = pc.or_(pc.invert(found), pc.greater(batch["mark"], FINE))
            batch, texts = batch.filter(keeps), {name: text.filter(keeps) for name, text in texts.items()}
    return batch


def text_parts(
    source: Source, advance: Callable[[int], object], nulls: Sequence[str], kinds: Mapping[str, pa.DataType]
) -> Iterator[Part]:
    """Reads a text file in blocks; the columns are the bytes of the file.

    A file with a line that is longer than a small block is read again in larger ones, and what was yielded passed over.
    """
    yielded = Counter[bool]()
    farthest = Farthest(advance)
    for block in sorted({min(BLOCK, SMALL_BLOCK), BLOCK}):
        again = +yielded
        farthest.restart()
        try:
            for part in text_blocks(source, farthest, nulls, kinds, block):
                known = min(again[part.numbered], len(part.marks))
                again[part.numbered] -= known
                yielded[part.numbered] += len(part.marks) - known
                if known < len(part.marks):
                    yield part.behind(known)
            return
        except LongLine:
            if block == BLOCK:
                what = "holds a line of tens of megabytes, or a quote that is never closed"
                raise UserError(f"{source.path} {what}: expected a play a line") from None


class LongLine(Exception):
    """A line that is longer than a block."""


def text_blocks(
    source: Source,
    advance: Callable[[int], object],
    nulls: Sequence[str],
    kinds: Mapping[str, pa.DataType],
    block: int,
) -> Iterator[Part]:
    """Reads a text file in blocks of so many bytes; raises `LongLine` at a longer one."""
    labels = [str(index) for index in range(len(source.names))]
    wanted = [str(source.names.index(name)) for name in source.read_names]
    layout = source.layout
    delimiter = layout.delimiter if len(layout.delimiter) == 1 else INSTEAD
    ragged: list[str] = []

    def keep(row: pa.csv.InvalidRow) -> str:
        ragged.append(row.text)
        return "skip"

    try:
        stream, tell = open_log(source.path, layout.encoding, layout.escaped)
        if delimiter == INSTEAD:
            stream = pa.lib.TransformInputStream(stream, Replacing(layout.delimiter.encode()))
        with undecodable(keep) as lost, stream:
            reader = pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(column_names=labels, skip_rows=layout.first, block_size=block),
                parse_options=pa.csv.ParseOptions(
                    delimiter=delimiter,
                    quote_char='"' if layout.quoted else False,
                    newlines_in_values=layout.quoted,
                    invalid_row_handler=keep,
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types={label: kinds.get(source.names[int(label)], pa.binary()) for label in wanted},
                    include_columns=wanted,
                    null_values=["", *nulls],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            done = 0
            for batch in reader:
                position = tell()
                advance(position - done)
                done = position
                if len(batch):
                    yield Part(batch.columns, np.full(len(batch), FINE, np.uint8))
                while len(ragged) >= RAGGED_BATCH:
                    yield ragged_rows(ragged[:RAGGED_BATCH], wanted, delimiter, layout.quoting)
                    del ragged[:RAGGED_BATCH]  # Arrow's thread may have added more
    except DAMAGED:
        raise damaged(source.path) from None
    except pa.ArrowInvalid as error:
        if lost:
            row = lost[0].decode(errors="backslashreplace")
            raise UserError(
                f"{source.path} has a row of a wrong number of fields that is not UTF-8 either, '{row[:60]}': "
                f"expected {len(source.names)} fields as its columns; fix the row"
            ) from None
        if "straddling" in str(error):
            raise LongLine from None
        raise UserError(f"{source.path} cannot be read as a table: expected a play a line") from None
    if ragged:
        yield ragged_rows(ragged, wanted, delimiter, layout.quoting)


class Replacing:
    """Replaces a delimiter of several characters by `INSTEAD` in a stream of bytes, which ends with an empty piece."""

    def __init__(self, delimiter: bytes):
        self._delimiter, self._rest = delimiter, b""

    def __call__(self, piece: pa.Buffer) -> bytes:
        data = (self._rest + memoryview(piece)).replace(self._delimiter, INSTEAD.encode())
        sizes = range(len(self._delimiter) - 1, 0, -1) if len(piece) else ()
        cut = len(data) - next((size for size in sizes if data.endswith(self._delimiter[:size])), 0)
        self._rest = data[cut:]
        return data[:cut]


def ragged_rows(lines: list[str], wanted: list[str], delimiter: str, quoting: Literal[0, 3]) -> Part:
    """The columns of rows of a wrong number of fields, as far as they have them."""
    limit = csv.field_size_limit(1 << 30)
    try:
        rows = [next(csv.reader(io.StringIO(text, ""), delimiter=delimiter, quoting=quoting), []) for text in lines]
    finally:
        csv.field_size_limit(limit)
    columns = [[row[int(label)].encode() if int(label) < len(row) else None for row in rows] for label in wanted]
    mark = BROKEN if any("\n" in text for text in lines) else RAGGED
    return Part([pa.array(column, pa.binary()) for column in columns], np.full(len(rows), mark, np.uint8), False)


def parquet_parts(source: Source, advance: Callable[[int], object], kinds: Mapping[str, pa.DataType]) -> Iterator[Part]:
    """Reads a Parquet file; the columns are the bytes of their text, of numbers and booleans too."""
    leaves = [source.leaves[name] for name in source.read_names]
    coded = [kinds.get(name) == CODED for name in source.read_names]
    many = [name in {source.roles.get(role) for role in MANY} for name in source.read_names]
    texts = [".".join(of.path) for of, few in zip(leaves, coded, strict=True) if few and of.kind == pa.string()]
    size = source.path.stat().st_size
    try:
        with open_table(source.path) as file:
            group_rows, plays = file.group_rows, 1.0
            if has_lists := any(leaf.lists for leaf in leaves):
                counts = (max(file.values(group).values()) / rows for group, rows in enumerate(group_rows) if rows)
                plays = max(counts, default=1)
        most = max(1, int(PARQUET_BATCH / plays))
        groups = [[*range(len(group_rows))]]
        if has_lists or min(group_rows[:-1], default=most) < most // 4:
            texts = []
        else:  # a batch of coded texts is of one row group
            groups = [[group] for group in groups[0]]
            most = max([most, *(rows for rows in group_rows if rows <= 2 * most)])
        names = list(dict.fromkeys(leaf.path[0] for leaf in leaves))
        with open_table(source.path, texts) as file:
            for batch in chain.from_iterable(file.batches(most, names, of, use_threads=True) for of in groups):
                advance(size * len(batch) // file.metadata.num_rows)
                columns = [flat(batch.column(leaf.path[0]), leaf.path[1:]) for leaf in leaves]
                few = [not (of and is_spread(column)) for of, (column, _) in zip(many, columns, strict=True)]
                yield part_of(columns, len(batch), coded=[of and one for of, one in zip(coded, few, strict=True)])
    except TABLE_DAMAGED:
        raise damaged(source.path) from None
