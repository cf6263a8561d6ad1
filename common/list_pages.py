"""Lists of one width, whole and without nulls, as pages of a Parquet column: their numbers as they lie in memory.

Arrow encodes and decodes two levels and a number at a time, which takes ten times as long as the bytes. Such lists have
levels that follow from their width alone. Numbers of 8 bits, which Parquet does not have, are indices of 8 bits into a
dictionary of 0 to 255. https://github.com/apache/parquet-format has the page header's fields.

Shape legend: R lists, W numbers of each.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from skipwise.common.thrift_compact import I32, STRUCT, Struct, Value, encode, varint

_TYPE, _PLAIN_BYTES, _COMPRESSED_BYTES, _DATA, _DICTIONARY = 1, 2, 3, 5, 7  # fields of a page header
_NUM_VALUES, _ENCODING, _DEFINITION, _REPETITION = 1, 2, 3, 4  # fields of a data page's header
_DATA_PAGE, _DICTIONARY_PAGE, PLAIN, RLE, CODED = 0, 2, 0, 3, 8
_PAGE = 1 << 20
_ALL = np.arange(256, dtype="<i4").tobytes()


def pages(values_RW: np.ndarray) -> Iterator[bytes | memoryview]:
    """A column chunk of float32, float16 or uint8 lists, piece by piece; R is not 0."""
    rows, width = values_RW.shape
    if values_RW.dtype == np.uint8:
        yield dictionary()
    for first, here, head, padding in _layout(rows, width, values_RW.itemsize):
        yield head
        yield values_RW[first : first + here].reshape(-1).data.cast("B")
        yield bytes(padding)


def read_pages(file: pa.NativeFile, size: int, dtype: np.dtype[Any], rows: int, width: int) -> np.ndarray | None:
    """[R, W] of the column chunk of `size` bytes that begins here; None where its pages are not as `pages` makes them.

    Moves `file`.
    """
    begin = file.tell()
    if min(size, file.size() - begin) < rows * width * dtype.itemsize:
        return None
    values_RW = np.empty((rows, width), dtype)
    if dtype == np.uint8 and file.read(len(dictionary())) != dictionary():
        return None
    for first, here, head, padding in _layout(rows, width, dtype.itemsize):
        content = values_RW[first : first + here].reshape(-1).data.cast("B")
        if file.read(len(head)) != head or file.readinto(content) != len(content):
            return None
        file.read(padding)
    return values_RW if file.tell() == begin + size else None


def _layout(rows: int, width: int, itemsize: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Of each page its first list, how many it has, what stands before its numbers, and the zeros behind them."""
    most = max(8, _PAGE // max(width * itemsize, 1) // 8 * 8)
    for first in range(0, rows, most):
        here = min(most, rows - first)
        yield first, here, _head(here, width, itemsize), -(here * width) % 8 if itemsize == 1 else 0


@lru_cache(4)
def dictionary() -> bytes:
    """The page that gives indices their numbers."""
    size = Value(I32, len(_ALL))
    fields: Struct = {_NUM_VALUES: Value(I32, 256), _ENCODING: Value(I32, PLAIN)}
    return _header(_DICTIONARY_PAGE, size, _DICTIONARY, fields) + _ALL


@lru_cache(4)
def _head(rows: int, width: int, itemsize: int) -> bytes:
    """What stands before a page's numbers: its header, and the levels of each number."""
    count, coded = rows * width, itemsize == 1
    repeated = varint(1 << 1) + b"\0" + (varint(width - 1 << 1) + b"\1") * (width > 1)
    levels = [repeated * rows, varint(count << 1) + b"\3"]
    before = b"".join(struct.pack("<I", len(one)) + one for one in levels)
    if coded:
        before += b"\x08" + varint((count + 7) // 8 << 1 | 1)  # of 8 bits each, one run
    size = len(before) + count * itemsize + coded * (-count % 8)
    fields: Struct = {
        _NUM_VALUES: Value(I32, count),
        _ENCODING: Value(I32, CODED if coded else PLAIN),
        _DEFINITION: Value(I32, RLE),
        _REPETITION: Value(I32, RLE),
    }
    return _header(_DATA_PAGE, Value(I32, size), _DATA, fields) + before


def _header(kind: int, size: Value, field: int, fields: Struct) -> bytes:
    return encode({_TYPE: Value(I32, kind), _PLAIN_BYTES: size, _COMPRESSED_BYTES: size, field: Value(STRUCT, fields)})
