"""Parquet files, read and written by Arrow: each by its own name, and with a limit on what a small file may become.

Arrow takes a relative path such as `run:1/part.parquet` for a URL. Here it gets the open file and never a path.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skipwise.common.files import require_regular_file
from skipwise.common.parquet_pages import Pages, read_pages

MOST_IN_GROUP = 1 << 27
"""Of a column, in a row group: one of 1,048,576 rows may hold lists of 128."""
_VALUES_A_BYTE = _BYTES_A_BYTE = 64
"""Of a table that is read whole. Where rows differ at all, a file has some bits for each."""
_ALWAYS_FINE = 1 << 20
_MOST_TEXT = 1 << 30
"""Bytes of text of a column that is read at once: a million ids of the longest."""
_MOST_IN_BATCH, _BATCH = 1 << 28, 1 << 16
"""Bytes of text in so many values that follow each other, and of one page."""


class Table:
    """An open Parquet file."""

    def __init__(self, file: pa.NativeFile, parquet: pq.ParquetFile):
        self._file, self._parquet = file, parquet
        self.metadata = parquet.metadata
        self.schema: pa.Schema = parquet.schema_arrow
        self._most_text = _BYTES_A_BYTE * file.size()

    @property
    def group_rows(self) -> list[int]:
        """The number of rows of each row group."""
        return [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]

    def values(self, group: int) -> dict[str, int]:
        """How many values each column of a row group has by the footer: of lists, those in them."""
        return {name: max(chunk.num_values for chunk, _ in chunks) for name, chunks in self._chunks(group).items()}

    def group(self, number: int, columns: Sequence[str] | None = None, most: int = MOST_IN_GROUP) -> pa.Table:
        """Reads one row group; raises `ValueError` where lists have more values than the footer says, or `most`, and
        where there is more text than the file's size allows."""
        self._check(number, columns, most)
        return self._parquet.read_row_group(number, columns=columns, use_threads=False)

    def batches(
        self,
        rows: int,
        columns: Sequence[str] | None = None,
        groups: Sequence[int] | None = None,
        use_threads: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Yields the rows of all row groups, or of these, at most `rows` at a time; raises as `group` does."""
        groups = range(self.metadata.num_row_groups) if groups is None else groups
        sizes = np.array(self.group_rows, dtype=np.int64)[list(groups)]
        unchecked = deque(zip((sizes.cumsum() - sizes).tolist(), groups, strict=True))
        batches = self._parquet.iter_batches(rows, row_groups=groups, columns=columns, use_threads=use_threads)
        done = 0
        while True:
            while unchecked and unchecked[0][0] <= done + rows:
                self._check(unchecked.popleft()[1], columns, MOST_IN_GROUP, whole=False)
            if (batch := next(batches, None)) is None:
                return
            done += len(batch)
            yield batch

    def _check(self, group: int, columns: Sequence[str] | None, most: int, whole: bool = True) -> None:
        """Of columns without lists Arrow reads no more than there are rows. `whole`: the row group is read at once."""
        for name, chunks in self._chunks(group).items():
            for chunk, repeated in chunks:
                text = chunk.physical_type == "BYTE_ARRAY"
                if not ((repeated or text) and chunk.num_values) or (columns is not None and name not in columns):
                    continue
                if repeated and chunk.num_values > most:
                    raise ValueError(
                        f"row group {group} has {chunk.num_values:,} values in '{name}', expected at most {most:,}"
                    )
                pages = read_pages(self._file, chunk)
                if pages.values > chunk.num_values:
                    raise ValueError(
                        f"row group {group} has {pages.values:,} values in '{name}' where its footer says "
                        f"{chunk.num_values:,}"
                    )
                if text:
                    self._check_text(group, name, chunk, pages, whole)

    def _check_text(self, group: int, name: str, chunk: pq.ColumnChunkMetaData, pages: Pages, whole: bool) -> None:
        """A dictionary has each text once, and a page of some bytes may name one of a megabyte a million times."""
        all_bytes, in_batch, at_once = sum(pages.sizes), max(pages.sizes, default=0), max(_MOST_TEXT, self._most_text)
        may_be_large = chunk.num_values * pages.dictionary > _MOST_IN_BATCH >= in_batch
        if may_be_large and chunk.num_values * pages.longest(chunk.compression) > _MOST_IN_BATCH:
            with pq.ParquetFile(self._file, metadata=self.metadata, read_dictionary=[chunk.path_in_schema]) as coded:
                column = coded.read_row_group(group, columns=[chunk.path_in_schema], use_threads=False)[name]
            for bytes_N in map(_text_bytes, column.chunks):
                batches = np.add.reduceat(bytes_N, np.arange(0, len(bytes_N), _BATCH)) if len(bytes_N) else bytes_N
                in_batch, all_bytes = max(in_batch, batches.max(initial=0)), all_bytes + batches.sum()
        if in_batch > _MOST_IN_BATCH or (whole and all_bytes > at_once):
            raise ValueError(
                f"row group {group} has more text in '{name}' than a file of {self._file.size():,} bytes may"
            )

    def _chunks(self, group: int) -> dict[str, list[tuple[pq.ColumnChunkMetaData, bool]]]:
        """By column of the table, of which a struct has several; and whether they are in lists."""
        content, leaves = self.metadata.row_group(group), self.metadata.schema
        found: dict[str, list[tuple[pq.ColumnChunkMetaData, bool]]] = {}
        for number in range(content.num_columns):
            chunk, repeated = content.column(number), leaves.column(number).max_repetition_level > 0
            found.setdefault(_top(chunk.path_in_schema, self.schema), []).append((chunk, repeated))
        return found


def _text_bytes(column: pa.Array) -> np.ndarray:
    """int64 [N]: the bytes of each text of a column that is coded by a dictionary, inside of lists too."""
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    if not pa.types.is_dictionary(column.type):
        return np.zeros(0, dtype=np.int64)
    lengths = pc.binary_length(column.dictionary).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths[column.indices.drop_null().to_numpy()]


def _top(path: str, schema: pa.Schema) -> str:
    """The column that a leaf belongs to: names may have dots too."""
    return max((name for name in schema.names if f"{path}.".startswith(f"{name}.")), key=len, default=path)


@contextmanager
def open_table(file: Path, coded: Sequence[str] = ()) -> Iterator[Table]:
    """Opens a Parquet file; raises `OSError` or what Arrow raises for any other.

    `coded`: columns of text that are read as dictionaries, each of one row group.
    """
    require_regular_file(file)
    with pa.OSFile(os.fsencode(file)) as source, pq.ParquetFile(source, read_dictionary=[*coded]) as parquet:
        yield Table(source, parquet)


def count_rows(file: Path) -> int:
    """Returns the number of rows that the footer says."""
    with open_table(file) as table:
        return int(table.metadata.num_rows)


def read_table(
    file: Path,
    columns: Sequence[str] | None = None,
    schema: pa.Schema | None = None,
    filters: list[tuple[str, str, int]] | None = None,
) -> pa.Table:
    """Reads a whole table, or the rows and columns chosen; `schema`: null where a column is missing.

    Raises `ValueError` where rows are more than the size of the file allows.
    """
    with open_table(file) as table:
        size, rows = file.stat().st_size, table.metadata.num_rows
        if rows > _ALWAYS_FINE + _VALUES_A_BYTE * size:
            raise ValueError(f"{size:,} bytes that should be {rows:,} rows")
        for group in range(table.metadata.num_row_groups):
            table._check(group, columns, max(MOST_IN_GROUP, rows))
    with pa.OSFile(os.fsencode(file)) as source:
        return pq.read_table(source, columns=columns, schema=schema, filters=filters)


@contextmanager
def table_writer(file: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Yields the writer of a new file; `options`: those of `pyarrow.parquet.ParquetWriter`."""
    with pa.OSFile(os.fsencode(file), "wb") as target, pq.ParquetWriter(target, schema, **options) as writer:
        yield writer


def write_table(table: pa.Table, file: Path, row_group_size: int | None = None, **options: Any) -> None:
    """Writes a table; `options`: those of `pyarrow.parquet.ParquetWriter`."""
    with table_writer(file, table.schema, **options) as writer:
        writer.write_table(table, row_group_size)
