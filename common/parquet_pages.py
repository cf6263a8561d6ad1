"""What the pages of a Parquet file hold, read from their headers before any page is decoded.

A column's count stands in the footer and again before each page, as a `PageHeader` in Thrift's compact protocol
(https://github.com/apache/parquet-format). Arrow believes the pages: one of ten bytes may hold a billion values.
"""

import struct
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_DEEPEST = 8
_PLAIN_BYTES, _COMPRESSED_BYTES, _DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 2, 3, 5, 7, 8
_NUM_VALUES = 1
_LARGE = 1 << 24
_LENGTH = struct.Struct("<I")


class Pages(NamedTuple):
    """Of a column in a row group."""

    values: int
    """Levels counted as values."""
    sizes: list[int]
    """Bytes of each page once it is decompressed, the dictionary's among them."""
    dictionary: int
    """Bytes of the dictionary."""
    coded: bytes
    """The dictionary as it is in the file."""

    def longest(self, codec: str) -> int:
        """The bytes of the longest text in the dictionary, or of all where it cannot be told, or not soon."""
        if self.dictionary > _LARGE:
            return self.dictionary
        try:
            plain = self.coded[: self.dictionary]
            if codec != "UNCOMPRESSED":
                plain = pa.decompress(self.coded, self.dictionary, codec=codec.lower(), asbytes=True)
            if (short := _longest_short(plain)) is not None:
                return short
            at = longest = 0
            while at < len(plain):
                (length,) = _LENGTH.unpack_from(plain, at)
                at, longest = at + 4 + length, max(longest, length)
        except (pa.ArrowException, OSError, ValueError, struct.error):
            return self.dictionary
        return longest


def _longest_short(plain: bytes) -> int | None:
    """The bytes of the longest of texts, each behind its length in four bytes; None unless all have less than 256 and
    no byte of theirs makes it unclear where one begins."""
    zero = np.frombuffer(plain, np.uint8) == 0
    starts = np.flatnonzero(zero[1:-2] & zero[2:-1] & zero[3:])
    ends = starts + 4 + np.frombuffer(plain, np.uint8)[starts]
    if not len(starts) or starts[0] or ends[-1] != len(plain) or not np.array_equal(starts[1:], ends[:-1]):
        return None
    return int((ends - starts).max()) - 4


def read_pages(file: pa.NativeFile, column: pq.ColumnChunkMetaData) -> Pages:
    """Reads the headers of a column's pages; moves `file`.

    Raises `ValueError` for headers that are not Parquet's.
    """
    place = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < place:
        place = column.dictionary_page_offset
    end, values, dictionary = place + column.total_compressed_size, 0, 0
    sizes, coded = [], b""
    while place < end:
        file.seek(place)
        header = _struct(file, 0)
        page, size = header.get(_DATA_PAGE, header.get(_DATA_PAGE_V2, {})), header.get(_COMPRESSED_BYTES)
        plain = header.get(_PLAIN_BYTES)
        if not isinstance(size, int) or size < 0 or not isinstance(plain, int) or not isinstance(page, dict):
            raise ValueError("a page without a header")
        values += page.get(_NUM_VALUES, 0)
        sizes.append(plain)
        place = file.tell() + size
        if _DICTIONARY_PAGE in header:
            dictionary, coded = plain, file.read(size)
    return Pages(values, sizes, dictionary, coded)


def _struct(file: pa.NativeFile, depth: int) -> dict[int, Any]:
    """Numbers and structs by the number of their field."""
    found: dict[int, Any] = {}
    field = 0
    while head := _byte(file):
        field = field + (head >> 4) if head >> 4 else _signed(_number(file))
        found[field] = _value(file, head & 15, depth)
    return found


def _value(file: pa.NativeFile, kind: int, depth: int) -> Any:
    match kind:
        case 1 | 2:
            return kind == 1
        case 3:
            return _byte(file)
        case 4 | 5 | 6:
            return _signed(_number(file))
        case 8:  # bytes: the least and the greatest value of a page
            length = _number(file)
            file.seek(file.tell() + length)
            return None
        case 12 if depth < _DEEPEST:
            return _struct(file, depth + 1)
    raise ValueError("a page header of another form")


def _number(file: pa.NativeFile) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number of more than 64 bits in a page header")


def _signed(number: int) -> int:
    return (number >> 1) ^ -(number & 1)


def _byte(file: pa.NativeFile) -> int:
    content = file.read(1)
    if not content:
        raise ValueError("a page header that ends early")
    return int(content[0])
