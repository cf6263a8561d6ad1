"""FAISS files of an export, read without trust: FAISS itself loads any class they name, and some map other files."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.common.versions import import_faiss
from skipwise.retrieval.search.config import IndexKind


class _Vector(NamedTuple):
    """A count in 8 bytes, and that many numbers."""

    number_bytes: int


_Layout = tuple[int | _Vector | tuple[bytes, ...], ...]
"""What FAISS reads up to the last class that it loads: bytes that say nothing, vectors, and bytes that must be one
of these. A metric beyond 1 and a direct map that is not empty would bring more fields."""
_HEADER = 4 + 3 * 8 + 1
"""After the name of a class: width, rows, two numbers that are not used, whether it is trained."""
_PRODUCT, _DISTANCE = (bytes(4),), (b"\1" + bytes(3),)
_NO_DIRECT_MAP = (bytes(1 + 8),)

PART: _Layout = ((b"IxFI", b"IxSQ"),)
_LISTS: _Layout = ((b"IwPQ",), _HEADER, _PRODUCT, 2 * 8)
_QUANTIZER: _Layout = ((b"IxFI",), _HEADER, _PRODUCT, _Vector(4))
_CODES: _Layout = (_NO_DIRECT_MAP, 1 + 8 + 3 * 8, _Vector(4), (b"ilar",))
_GRAPH: _Layout = (_Vector(8), _Vector(4), _Vector(4), _Vector(8), _Vector(4), 5 * 4)
INDEX: dict[IndexKind, _Layout] = {
    "fastscan": ((b"IPfs",), _HEADER, _PRODUCT),
    "ivfpq": (*_LISTS, *_QUANTIZER, *_CODES),
    "hnsw": ((b"IHNs",), _HEADER, _DISTANCE, *_GRAPH, (b"IxSQ",)),
}
"""Each kind of index that has a file."""


def read_faiss(file: Path, layout: _Layout) -> Any:
    """Returns the index in `file`. Raises `ValueError` for one of another layout, before FAISS sees it, and what FAISS
    raises for a file that is damaged."""
    faiss = import_faiss()
    with open(file, "rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        for step in layout:
            match step:
                case _Vector(number_bytes):
                    skipped = number_bytes * int.from_bytes(stream.read(8), "little")
                    stream.seek(min(end, stream.tell() + skipped))
                case int():
                    stream.seek(step, os.SEEK_CUR)
                case _:
                    if (found := stream.read(len(step[0]))) not in step:
                        raise ValueError(f"{_text(found)} where {' or '.join(map(_text, step))} was expected")
        stream.seek(0)
        return faiss.read_index(faiss.PyCallbackIOReader(stream.read))


def _text(content: bytes) -> str:
    return repr(content.decode("latin-1"))
