"""The records of a file without a table's columns: one a line, or JSON values in an array or one after the other."""

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare.log_files import DAMAGED, damaged, open_log

CHUNK = 4 << 20
LARGEST = 1 << 28
"""Bytes of one record."""
_BETWEEN = np.isin(np.arange(256), [*b" \t\r\n,[]"])
"""The bytes that may stand between two values."""


class BadRecord(ValueError):
    """A record that hides where the next one begins."""

    def __init__(self, line: int, what: str):
        super().__init__(f"line {line} {what}")


class Records(NamedTuple):
    """Some records of a file, in order."""

    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    """Where each begins and ends in `data`."""
    lines: int
    """Line breaks of the file before `data`."""

    def texts(self) -> list[bytes]:
        """Returns the bytes of each record."""
        return [self.data[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]

    def line(self, number: int) -> int:
        """Returns the line of the file, from 1, in which a record begins."""
        return self.lines + self.data.count(b"\n", 0, int(self.starts[number])) + 1


def records_of(
    path: Path,
    encoding: str,
    split: Callable[[pa.NativeFile, bytes], Iterator[Records]],
    advance: Callable[[int], object] = lambda size: None,
) -> Iterator[Records]:
    """Yields the records of a file, and calls `advance` with the number of bytes read; raises `UserError`."""
    try:
        stream, tell = open_log(path, encoding)
        with stream:
            done = 0
            for records in split(stream, stream.read(3).removeprefix(codecs.BOM_UTF8)):
                position = tell()
                advance(position - done)
                done = position
                yield records
    except BadRecord as error:
        raise UserError(f"{path}, {error}: expected JSON objects, one a line or in an array; fix the file") from None
    except DAMAGED:
        raise damaged(path) from None


def line_records(stream: pa.NativeFile, rest: bytes = b"") -> Iterator[Records]:
    """Yields the lines of `rest` and `stream` that are not blank."""
    lines, more = 0, b"\n"
    while more:
        more = stream.read(CHUNK + len(rest))
        data = rest + more
        cut = data.rfind(b"\n") + 1 if more else len(data)
        whole, rest = data[:cut], data[cut:]
        refuse_largest(rest, lines)
        values = np.frombuffer(whole, np.uint8)
        breaks = np.flatnonzero(values == ord("\n"))
        starts, ends = np.append(0, breaks + 1), np.append(breaks, len(whole))
        seen = np.append(0, np.cumsum(values > ord(" ")))
        filled = seen[ends] > seen[starts]
        yield Records(whole, starts[filled], ends[filled], lines)
        lines += len(breaks)


def value_records(stream: pa.NativeFile, rest: bytes = b"") -> Iterator[Records]:
    """Yields the objects of a JSON array, or JSON objects one after the other, in `rest` and `stream`.

    Raises `BadRecord` where one does not end, or something else stands between them.
    """
    lines, more, base, depth = 0, b" ", None, 0
    while more:
        more = stream.read(CHUNK + len(rest))
        data = rest + more
        if base is None:
            if not (begin := data.lstrip()[:1]) and more:
                rest = data
                continue
            base = int(begin == b"[")
        plain = data.replace(b"\\\\", b"  ").replace(b'\\"', b"  ") if b"\\" in data else data
        values = np.frombuffer(plain, np.uint8)
        outside = np.cumsum(values == ord('"'), dtype=np.uint8) & 1 == 0
        step = np.isin(values, [*b"{["]).astype(np.int8) - np.isin(values, [*b"}]"])
        step[~outside] = 0
        depths = depth + np.cumsum(step, dtype=np.int32)
        starts = np.flatnonzero((step == 1) & (depths == base + 1))
        ends = np.flatnonzero((step == -1) & (depths == base)) + 1
        between = depths <= base
        between[ends - 1] = False
        if len(wrong := np.flatnonzero((between & ~_BETWEEN[values]) | (depths < 0))):
            line = lines + data.count(b"\n", 0, int(wrong[0])) + 1
            raise BadRecord(line, "holds a value that is no object, or a bracket too many")
        if not more and (depths[-1] if len(depths) else depth) != 0:
            at = int(starts[len(ends)]) if len(starts) > len(ends) else len(data)
            raise BadRecord(lines + data.count(b"\n", 0, at) + 1, "begins what the end of the file cuts short")
        cut = int(starts[len(ends)]) if len(starts) > len(ends) else len(data)
        starts, depth = starts[: len(ends)], int(depths[cut - 1]) if cut else depth
        yield Records(data[:cut], starts, ends, lines)
        lines += data.count(b"\n", 0, cut)
        rest = data[cut:]
        refuse_largest(rest, lines)


def refuse_largest(rest: bytes, lines: int) -> None:
    """Raises `BadRecord` where what is left of a chunk is too long to be the beginning of a record."""
    if len(rest) > LARGEST:
        raise BadRecord(lines + 1, f"begins a record of more than {LARGEST >> 20} MiB")
