"""A Parquet file with a column of lists of one width, whose numbers are written as they lie in memory.

Each block is a row group. Arrow writes the other columns, their statistics and the schema; the pages of the lists
(`common/list_pages.py`) stand behind them, and the footer names both.

Shape legend: B rows of a block, W numbers of a list.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from skipwise.common.list_pages import dictionary, pages
from skipwise.common.tables import table_bytes
from skipwise.common.thrift_compact import I64, LIST, STRUCT, List, Struct, Value, decode, encode

_MAGIC = b"PAR1"
# Fields of a footer's structs, by https://github.com/apache/parquet-format
_NUM_ROWS, _GROUPS = 3, 4
_COLUMNS, _GROUP_BYTES, _GROUP_OFFSET, _GROUP_COMPRESSED, _ORDINAL = 1, 2, 5, 6, 7
_META, _TYPE, _ENCODINGS, _PATH, _CODEC, _VALUES, _BYTES, _COMPRESSED, _DATA, _DICTIONARY = 3, *range(1, 8), 9, 11


@contextmanager
def part_writer(file: Path, schema: pa.Schema, lists: str, **options: Any) -> Iterator["PartWriter"]:
    """Yields the writer of a new file; `lists`: its column of lists; `options`: those of Arrow's
    `ParquetWriter`."""
    with open(file, "wb") as stream:
        writer = PartWriter(stream, schema, lists, options)
        yield writer
        writer.finish()


class PartWriter:
    """See `part_writer`."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema, lists: str, options: dict[str, Any]):
        self._stream, self._at, self._num_rows, self._groups = stream, 0, 0, list[Struct]()
        self._options, self._place = options, schema.get_field_index(lists)
        self._others = schema.remove(self._place)
        # A row for Arrow to say how a footer describes such a file.
        row = [pa.nulls(1, field.type) for field in schema]
        row[self._place] = pa.array([[0] * schema.field(lists).type.list_size], schema.field(lists).type)
        _, self._footer = self._by_arrow(pa.table(row, schema=schema))
        (group,) = self._footer[_GROUPS].value.values
        self._like: Struct = group[_COLUMNS].value.values[self._place]
        self._write(_MAGIC)

    def write(self, table: pa.Table, values_BW: np.ndarray) -> None:
        """Writes a row group; `table`: all columns but the lists, in the schema's order. B is not 0."""
        content, footer = self._by_arrow(table.cast(self._others))
        (group,) = footer[_GROUPS].value.values
        begin = self._at
        self._write(content)
        columns = [_moved(column, begin - len(_MAGIC)) for column in group[_COLUMNS].value.values]
        lists_at = self._at
        for piece in pages(values_BW):
            self._write(piece)
        columns.insert(self._place, self._lists(lists_at, values_BW))
        size = Value(I64, sum(column[_META].value[_BYTES].value for column in columns))
        moved = {_GROUP_OFFSET: Value(I64, begin), _GROUP_BYTES: size, _GROUP_COMPRESSED: size}
        group |= {_COLUMNS: Value(LIST, List(STRUCT, columns)), **moved}
        group.pop(_ORDINAL, None)  # of 16 bits
        self._groups.append(group)
        self._num_rows += len(values_BW)

    def finish(self) -> None:
        """Writes the footer."""
        groups = Value(LIST, List(STRUCT, self._groups))
        footer = encode(self._footer | {_NUM_ROWS: Value(I64, self._num_rows), _GROUPS: groups})
        self._write(footer + len(footer).to_bytes(4, "little") + _MAGIC)

    def _lists(self, at: int, values_BW: np.ndarray) -> Struct:
        """The footer's description of the lists, which begin at `at` and end here."""
        like: Struct = self._like[_META].value
        meta = {field: like[field] for field in (_TYPE, _ENCODINGS, _PATH, _CODEC)}
        size = Value(I64, self._at - at)
        before = len(dictionary()) if values_BW.dtype == np.uint8 else 0
        meta |= {_VALUES: Value(I64, values_BW.size), _BYTES: size, _COMPRESSED: size, _DATA: Value(I64, at + before)}
        if before:
            meta[_DICTIONARY] = Value(I64, at)
        return self._like | {_META: Value(STRUCT, meta)}

    def _by_arrow(self, table: pa.Table) -> tuple[bytes, Struct]:
        """The row group and the footer of a file of these rows."""
        content = table_bytes(table, **self._options)
        end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        return content[len(_MAGIC) : end], decode(content, end)[0]

    def _write(self, piece: bytes | memoryview) -> None:
        self._stream.write(piece)
        self._at += len(piece)


def _moved(column: Struct, by: int) -> Struct:
    """A column that begins so much later in its file."""
    meta: Struct = dict(column[_META].value)
    for field in (_DATA, _DICTIONARY):
        if field in meta:
            meta[field] = Value(I64, meta[field].value + by)
    return column | {_META: Value(STRUCT, meta)}
