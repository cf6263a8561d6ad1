"""Rows as a `.npy` file, which `numpy.load(mmap_mode="r")` opens without reading it."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skipwise.retrieval.encodings import check_near, encode, row_bytes
from skipwise.retrieval.export.live import Block, LiveRows


def write(file: Path, rows: LiveRows, dtype: str) -> None:
    """Writes `file`, C order, [R, D], or for int8 [R, D + 8]."""
    with open(file, "wb") as stream:
        stream.write(_header(rows, dtype))
        for _, encoded_BW in _blocks(rows, dtype):
            stream.write(memoryview(encoded_BW).cast("B"))


def check(file: Path, rows: LiveRows, dtype: str) -> bool:
    """Whether `file` holds the rows and nothing else."""
    with open(file, "rb") as stream:
        header = _header(rows, dtype)
        same = stream.read(len(header)) == header
        for block, encoded_BW in _blocks(rows, dtype):
            same = same and stream.read(encoded_BW.nbytes) == memoryview(encoded_BW).cast("B")
            check_near(encoded_BW, dtype, block.rows_BD, block.numbers_B)
        return same and not stream.read(1)


def _blocks(rows: LiveRows, dtype: str) -> Iterator[tuple[Block, np.ndarray]]:
    for block in rows.blocks():
        yield block, encode(block.rows_BD, dtype, block.numbers_B)


def _header(rows: LiveRows, dtype: str) -> bytes:
    kind = np.dtype({"float32": "<f4", "float16": "<f2", "int8": "u1"}[dtype])
    shape = len(rows), row_bytes(rows.dim, dtype) // kind.itemsize
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
