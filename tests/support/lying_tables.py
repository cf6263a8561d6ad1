"""Parquet files whose counts are not what their pages hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def lists_of_zeros(file: Path, lengths: list[int], **options: Any) -> None:
    """Lists of track 0 and strength 0, in one page a column: some bytes, whatever their lengths."""
    offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
    columns = {
        name: pa.ListArray.from_arrays(offsets, pa.array(np.zeros(sum(lengths), kind)))
        for name, kind in (("tracks", np.int32), ("skips", np.int8))
    }
    pq.write_table(pa.table(columns), file, data_page_size=1 << 40, write_statistics=False, **options)


def lie(file: Path, count: int, said: int) -> None:
    """Replaces a count in the footer."""
    content = file.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer, number = content[start:-8], _zigzag(count)
    assert footer.count(number)
    footer = footer.replace(number, _zigzag(said, len(number)))
    file.write_bytes(content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def _zigzag(number: int, width: int = 1) -> bytes:
    """Thrift's compact number, in `width` bytes or more."""
    left, found = 2 * number, bytearray()
    while left >> 7 or len(found) < width - 1:
        found.append(left & 127 | 128)
        left >>= 7
    return bytes([*found, left])
