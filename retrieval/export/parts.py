"""One rank's rows as files of an export: written block by block, read back and compared bit for bit.

Parquet has a row group for each block, without compression: trained floats do not compress. A `.npy` file is what
`numpy.load(mmap_mode="r")` opens without reading it. A flat FAISS index searches by inner product, and its ids count
from 0 in each part; unlike the others it is made in memory, where it takes as much as the part does on disk.

Shape legend: R rows of this rank, B rows of a block, D width, W numbers of an encoded row.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from skipwise.common.errors import UserError, brief
from skipwise.common.files import FileRecord
from skipwise.common.tables import open_table, table_writer
from skipwise.common.versions import import_faiss
from skipwise.datapipes.session_files import DAMAGED
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.retrieval.export.row_encoding import check_near, convert, encode
from skipwise.retrieval.formats import SCALE_BIAS_BYTES, DType, PartFormat, row_bytes, scale_bias
from skipwise.retrieval.open_export import READERS

_AGAIN = "check the disk, then export again"


class Block(NamedTuple):
    """At most 65,536 rows."""

    tracks_B: pa.RecordBatch
    """Track ids and names."""
    numbers_B: np.ndarray
    """int32; the rows' numbers in the table."""
    rows_BD: Tensor
    """float32, on the CPU, contiguous."""

    def encoded(self, dtype: DType) -> np.ndarray:
        """[B, W], see `encode`."""
        return encode(self.rows_BD, dtype, self.numbers_B)

    def checked(self, dtype: DType) -> np.ndarray:
        """What `encoded` gave, and `check_near` the live rows."""
        encoded_BW = convert(self.rows_BD, dtype, self.numbers_B)
        check_near(encoded_BW, dtype, self.rows_BD, self.numbers_B)
        return encoded_BW


@dataclass(frozen=True)
class TableRows:
    """The rows of the model's table that this rank exports, with their numbers and track ids."""

    vocabulary: Vocabulary
    first: int
    """The table's row that `rows_RD` begins with."""
    rows_RD: Tensor
    chosen_R: Tensor | None = None
    """bool, on the CPU: only these rows are exported; None for all."""

    @property
    def dim(self) -> int:
        """D."""
        return self.rows_RD.shape[1]

    @cached_property
    def names(self) -> list[str]:
        """The columns that say what a track is called."""
        return self.vocabulary.names()

    def __len__(self) -> int:
        return len(self.rows_RD) if self.chosen_R is None else int(self.chosen_R.sum())

    def blocks(self) -> Iterator[Block]:
        """In row order; none of them is empty."""
        for row, tracks_B in self.vocabulary.tracks(self.first, self.first + len(self.rows_RD), self.names):
            place = slice(row - self.first, row - self.first + len(tracks_B))
            numbers_B = np.arange(row, row + len(tracks_B), dtype=np.int32)
            rows_BD = self.rows_RD[place]
            if self.chosen_R is not None:
                chosen_B = self.chosen_R[place]
                tracks_B, numbers_B = tracks_B.filter(pa.array(chosen_B.numpy())), numbers_B[chosen_B.numpy()]
                rows_BD = rows_BD[chosen_B.to(rows_BD.device)]
            if len(tracks_B):
                yield Block(tracks_B, numbers_B, rows_BD.to("cpu", torch.float32).contiguous())


def part_name(rank: int, kind: PartFormat) -> str:
    """The part of a rank; names sort in row order."""
    return f"embeddings/part-{rank:05}.{kind.format}"


def tracks_name(rank: int) -> str:
    """The track ids and names of a part that cannot hold them."""
    return f"tracks/part-{rank:05}.parquet"


def write_part(file: Path, rows: TableRows, kind: PartFormat) -> None:
    """Writes the rows; raises `UserError` for one that is not finite, or that `kind` cannot hold."""
    {"parquet": _write_parquet, "npy": _write_npy, "faiss": _write_faiss}[kind.format](file, rows, kind.dtype)


def check_part(file: Path, rows: TableRows, kind: PartFormat) -> None:
    """Raises `UserError` unless the part holds the live rows, or their conversion, bit for bit, and nothing else.

    It is read as serving reads it. A Parquet part's ids, numbers and names are compared too; and converted rows must be
    as near to the live ones as rounding leaves them.
    """
    _check(file, lambda: _holds(file, rows, kind) and (not kind.holds_tracks or _names(file, rows, kind.dtype)))


def checked(folder: Path, name: str, check: Callable[[Path], None]) -> FileRecord:
    """The record of a file that `check` reads at the same time."""
    with ThreadPoolExecutor(1) as beside:
        record = beside.submit(FileRecord.of, folder, name)
        check(folder / name)
        return record.result()


def write_tracks(file: Path, rows: TableRows) -> None:
    """Writes the ids, the numbers and the names of the rows alone."""
    _write_parquet(file, rows, None)


def check_tracks(file: Path, rows: TableRows) -> None:
    """Raises `UserError` unless the file holds the rows' ids, numbers and names."""
    _check(file, lambda: _names(file, rows, None))


def _check(file: Path, equals: Callable[[], bool]) -> None:
    try:
        if equals():
            return
    except (*DAMAGED, RuntimeError) as error:  # FAISS raises the last
        raise UserError(f"{file.name} cannot be read back ({brief(error)}): {_AGAIN}") from error
    raise UserError(f"{file.name} read back differs from the model's table: {_AGAIN}")


def _holds(file: Path, rows: TableRows, kind: PartFormat) -> bool:
    """Whether the part's rows are those, compared as bytes: -0.0 is not 0.0, and NaN equals itself."""
    pieces = READERS[kind.format](file)
    piece_RW, row, same = np.empty((0, 0)), 0, True
    for block in rows.blocks():
        encoded_BW = block.checked(kind.dtype)
        if row == len(piece_RW):
            piece_RW, row = next(pieces, piece_RW[:0]), 0
        found_BW = piece_RW[row : row + len(encoded_BW)]
        same = same and found_BW.dtype == encoded_BW.dtype and np.array_equal(_bits(found_BW), _bits(encoded_BW))
        row += len(encoded_BW)
    return same and row == len(piece_RW) and not any(len(piece) for piece in pieces)


def _bits(values_BW: np.ndarray) -> np.ndarray:
    """The same bytes as whole numbers."""
    return values_BW.view(f"u{values_BW.itemsize}")


def _names(file: Path, rows: TableRows, dtype: DType | None) -> bool:
    """Whether the file's ids, numbers and names are those of the rows, and its columns those that are written."""
    with open_table(file) as table:
        if not table.schema.equals(_schema(rows, dtype)) or table.metadata.num_rows != len(rows):
            return False
        schema = _schema(rows, None)
        groups = (table.group(group, schema.names) for group in range(len(table.group_rows)))
        expected = (_table(block, schema, None) for block in rows.blocks())
        return all(found.equals(names) for found, names in zip(groups, expected, strict=True))


def _write_parquet(file: Path, rows: TableRows, dtype: DType | None) -> None:
    """Without a `dtype` the ids, numbers and names alone."""
    schema = _schema(rows, dtype)
    # Parquet has no numbers of 8 bits: indices into a dictionary take as many, plain numbers would take 32.
    coded = ["embedding.list.element"] if dtype == "int8" else False
    with table_writer(file, schema, compression="none", use_dictionary=coded, write_statistics=["row"]) as writer:
        for block in rows.blocks():
            encoded_BW = block.encoded(dtype) if dtype else None
            writer.write_table(_table(block, schema, encoded_BW), row_group_size=len(block.tracks_B))


def _schema(rows: TableRows, dtype: DType | None) -> pa.Schema:
    columns = {"track_id": pa.string(), "row": pa.int32(), **dict.fromkeys(rows.names, pa.string())}
    if dtype:
        number = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.uint8()}[dtype]
        columns["embedding"] = pa.list_(number, rows.dim)
    if dtype == "int8":
        columns |= {"scale": pa.float32(), "bias": pa.float32()}
    return pa.schema(columns)


def _table(block: Block, schema: pa.Schema, encoded_BW: np.ndarray | None) -> pa.Table:
    ids_B, *names = block.tracks_B.columns
    arrays = [ids_B, pa.array(block.numbers_B), *names]
    if encoded_BW is not None:
        more = []
        if "scale" in schema.names:
            more = [pa.array(np.ascontiguousarray(numbers_B)) for numbers_B in scale_bias(encoded_BW).T]
            encoded_BW = encoded_BW[:, :-SCALE_BIAS_BYTES]
        kind = schema.field("embedding").type
        arrays += [pa.FixedSizeListArray.from_arrays(pa.array(encoded_BW.reshape(-1)), type=kind), *more]
    return pa.table(arrays, schema=schema)


def _write_npy(file: Path, rows: TableRows, dtype: DType) -> None:
    """C order, [R, D], or for int8 [R, D + 8]."""
    kind = {"float32": "<f4", "float16": "<f2", "int8": "|u1"}[dtype]
    shape = len(rows), row_bytes(rows.dim, dtype) // np.dtype(kind).itemsize
    with open(file, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
        for block in rows.blocks():
            stream.write(block.encoded(dtype).data.cast("B"))


def _write_faiss(file: Path, rows: TableRows, dtype: DType) -> None:
    """`IndexFlatIP`, or for float16 `IndexScalarQuantizer` with QT_fp16."""
    faiss = import_faiss()
    if dtype == "float32":
        index = faiss.IndexFlatIP(rows.dim)
    else:
        index = faiss.IndexScalarQuantizer(rows.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for block in rows.blocks():
        # Codes made here, because FAISS's own conversion of rows differs from processor to processor.
        index.add_sa_codes(block.encoded(dtype).view(np.uint8))
    # Through Python's file, because FAISS's own writer does not report a disk that is full when the file is closed.
    with open(file, "wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))
