"""One rank's rows as files of an export: written block by block, read back and compared bit for bit.

Parquet has a row group for each block, without compression: trained floats do not compress. A `.npy` file is what
`numpy.load(mmap_mode="r")` opens without reading it. A flat FAISS index searches by inner product, and its ids count
from 0 in each part; unlike the others it is made in memory, where it takes as much as the part does on disk.

Shape legend: R rows of this rank, B rows of a block, D width, W numbers of an encoded row.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from skipwise.common.errors import UserError, brief
from skipwise.common.versions import import_faiss
from skipwise.datapipes.session_files import DAMAGED
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.retrieval.export.row_encoding import check_near, encode
from skipwise.retrieval.formats import SCALE_BIAS_BYTES, DType, PartFormat, row_bytes, scale_bias

_AGAIN = "check the disk, then export again"


class Block(NamedTuple):
    """At most 65,536 rows."""

    ids_B: pa.Array
    numbers_B: np.ndarray
    """int32; the rows' numbers in the table."""
    rows_BD: Tensor
    """float32, on the CPU, contiguous."""

    def encoded(self, dtype: DType) -> np.ndarray:
        """[B, W], see `encode`."""
        return encode(self.rows_BD, dtype, self.numbers_B)

    def checked(self, dtype: DType) -> np.ndarray:
        """`encoded`, and `check_near` the live rows."""
        encoded_BW = self.encoded(dtype)
        check_near(encoded_BW, dtype, self.rows_BD, self.numbers_B)
        return encoded_BW


@dataclass(frozen=True)
class LiveRows:
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

    def __len__(self) -> int:
        return len(self.rows_RD) if self.chosen_R is None else int(self.chosen_R.sum())

    def blocks(self) -> Iterator[Block]:
        """In row order; none of them is empty."""
        for row, ids in self.vocabulary.ids(self.first, self.first + len(self.rows_RD)):
            place = slice(row - self.first, row - self.first + len(ids))
            numbers_B = np.arange(row, row + len(ids), dtype=np.int32)
            rows_BD = self.rows_RD[place]
            if self.chosen_R is not None:
                chosen_B = self.chosen_R[place]
                ids, numbers_B = ids.filter(pa.array(chosen_B.numpy())), numbers_B[chosen_B.numpy()]
                rows_BD = rows_BD[chosen_B.to(rows_BD.device)]
            if len(ids):
                yield Block(ids, numbers_B, rows_BD.to("cpu", torch.float32).contiguous())


def part_name(rank: int, kind: PartFormat) -> str:
    """The part of a rank; names sort in row order."""
    return f"embeddings/part-{rank:05}.{kind.format}"


def tracks_name(rank: int) -> str:
    """The track ids of a part that cannot hold them."""
    return f"tracks/part-{rank:05}.parquet"


def write_part(file: Path, rows: LiveRows, kind: PartFormat) -> None:
    """Writes the rows; raises `UserError` for one that is not finite, or that `kind` cannot hold."""
    {"parquet": _write_parquet, "npy": _write_npy, "faiss": _write_faiss}[kind.format](file, rows, kind.dtype)


def check_part(file: Path, rows: LiveRows, kind: PartFormat) -> None:
    """Raises `UserError` unless the part holds the live rows, or their conversion, bit for bit, and nothing else.

    A Parquet part's ids and numbers are compared too; and converted rows must be as near to the live ones as rounding
    leaves them.
    """
    equals = {"parquet": _equals_parquet, "npy": _equals_npy, "faiss": _equals_faiss}[kind.format]
    _check(file, lambda: equals(file, rows, kind.dtype))


def write_tracks(file: Path, rows: LiveRows) -> None:
    """Writes the ids and the numbers of the rows alone."""
    _write_parquet(file, rows, None)


def check_tracks(file: Path, rows: LiveRows) -> None:
    """Raises `UserError` unless the file holds the rows' ids and numbers."""
    _check(file, lambda: _equals_parquet(file, rows, None))


def _check(file: Path, equals: Callable[[], bool]) -> None:
    try:
        if equals():
            return
    except (*DAMAGED, RuntimeError) as error:  # FAISS raises the last
        raise UserError(f"{file.name} cannot be read back ({brief(error)}): {_AGAIN}") from error
    raise UserError(f"{file.name} read back differs from the model's table: {_AGAIN}")


def _write_parquet(file: Path, rows: LiveRows, dtype: DType | None) -> None:
    """Without a `dtype` the ids and numbers alone."""
    schema = _schema(rows.dim, dtype)
    # Parquet has no numbers of 8 bits: indices into a dictionary take as many, plain numbers would take 32.
    coded = ["embedding.list.element"] if dtype == "int8" else False
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=coded, write_statistics=["row"]) as writer:
        for block in rows.blocks():
            encoded_BW = block.encoded(dtype) if dtype else None
            writer.write_table(_table(block, schema, encoded_BW), row_group_size=len(block.ids_B))


def _equals_parquet(file: Path, rows: LiveRows, dtype: DType | None) -> bool:
    schema = _schema(rows.dim, dtype)
    with pq.ParquetFile(file) as parquet:
        same: bool = parquet.schema_arrow.equals(schema) and parquet.metadata.num_rows == len(rows)
        for group, block in enumerate(rows.blocks()):
            expected = _table(block, schema, block.checked(dtype) if dtype else None)
            same = same and _equal(parquet.read_row_group(group, use_threads=False), expected)
    return same


def _schema(dim: int, dtype: DType | None) -> pa.Schema:
    columns = {"track_id": pa.string(), "row": pa.int32()}
    if dtype:
        number = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.uint8()}[dtype]
        columns["embedding"] = pa.list_(number, dim)
    if dtype == "int8":
        columns |= {"scale": pa.float32(), "bias": pa.float32()}
    return pa.schema(columns)


def _table(block: Block, schema: pa.Schema, encoded_BW: np.ndarray | None) -> pa.Table:
    arrays = [block.ids_B, pa.array(block.numbers_B)]
    if encoded_BW is not None:
        more = []
        if "scale" in schema.names:
            more = [pa.array(np.ascontiguousarray(numbers_B)) for numbers_B in scale_bias(encoded_BW).T]
            encoded_BW = encoded_BW[:, :-SCALE_BIAS_BYTES]
        kind = schema.field("embedding").type
        arrays += [pa.FixedSizeListArray.from_arrays(pa.array(encoded_BW.reshape(-1)), type=kind), *more]
    return pa.table(arrays, schema=schema)


def _equal(found: pa.Table, expected: pa.Table) -> bool:
    """Compares numbers as bytes: Arrow takes -0.0 for equal to 0.0, and NaN for unequal to itself."""
    numbers = [name for name in ("embedding", "scale", "bias") if name in expected.column_names]
    if not found.drop(numbers).equals(expected.drop(numbers)):
        return False
    return all(np.array_equal(_bytes(found[name]), _bytes(expected[name])) for name in numbers)


def _bytes(column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks()
    if isinstance(array, pa.FixedSizeListArray):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).view(np.uint8)


def _write_npy(file: Path, rows: LiveRows, dtype: DType) -> None:
    """C order, [R, D], or for int8 [R, D + 8]."""
    with open(file, "wb") as stream:
        stream.write(_npy_header(rows, dtype))
        for block in rows.blocks():
            stream.write(block.encoded(dtype).data.cast("B"))


def _equals_npy(file: Path, rows: LiveRows, dtype: DType) -> bool:
    with open(file, "rb") as stream:
        header = _npy_header(rows, dtype)
        same = stream.read(len(header)) == header
        for block in rows.blocks():
            encoded_BW = block.checked(dtype)
            same = same and stream.read(encoded_BW.nbytes) == encoded_BW.data.cast("B")
        return same and not stream.read(1)


def _npy_header(rows: LiveRows, dtype: DType) -> bytes:
    kind = np.dtype({"float32": "<f4", "float16": "<f2", "int8": "u1"}[dtype])
    shape = len(rows), row_bytes(rows.dim, dtype) // kind.itemsize
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _write_faiss(file: Path, rows: LiveRows, dtype: DType) -> None:
    """`IndexFlatIP`, or for float16 `IndexScalarQuantizer` with QT_fp16."""
    faiss, index = import_faiss(), _empty_index(rows.dim, dtype)
    for block in rows.blocks():
        # Codes made here, because FAISS's own conversion of rows differs from processor to processor.
        index.add_sa_codes(block.encoded(dtype).view(np.uint8))
    # Through Python's file, because FAISS's own writer does not report a disk that is full when the file is closed.
    with open(file, "wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))


def _equals_faiss(file: Path, rows: LiveRows, dtype: DType) -> bool:
    faiss = import_faiss()
    index, expected = faiss.read_index(str(file)), _empty_index(rows.dim, dtype)
    if _index_facts(index) != _index_facts(expected) or index.ntotal != len(rows):
        return False
    same, first = index.codes.size() == len(rows) * index.code_size, 0
    for block in rows.blocks():
        encoded_BW = block.checked(dtype)
        if same:
            codes_X = faiss.rev_swig_ptr(index.codes.data(), len(rows) * index.code_size)
            same = np.array_equal(codes_X[first : first + encoded_BW.nbytes], encoded_BW.view(np.uint8).reshape(-1))
        first += encoded_BW.nbytes
    return bool(same)


def _empty_index(dim: int, dtype: DType) -> Any:
    faiss = import_faiss()
    if dtype == "float32":
        return faiss.IndexFlatIP(dim)
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _index_facts(index: Any) -> tuple[Any, ...]:
    """What must be equal besides the codes."""
    quantizer = getattr(index, "sq", None)
    of_quantizer = (quantizer.qtype, quantizer.d, quantizer.code_size) if quantizer else ()
    facts = type(index), index.d, index.metric_type, index.is_trained, getattr(index, "code_size", None)
    return *facts, of_quantizer
