"""`checkpoint.json`: what a checkpoint's files hold, under hashes that show any change, and read as data alone."""

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipwise.common.files import require_regular_file
from skipwise.datapipes.manifest_fields import whole

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
}
"""As the safetensors format calls them."""
Index = dict[str, Any]
"""`tensors`: by name, `dtype`, `shape` and `chunks` (each `offsets`, `shape`, `file`); `files`: a `FileRecord` each."""


class StorageError(Exception):
    """What is wrong with a checkpoint's files, in words that begin with the file's name."""


@dataclass(frozen=True)
class FileRecord:
    """What an index says of a file, so that a copy of it can be checked."""

    file: str
    """Path inside the directory."""
    bytes: int
    sha256: str
    """In hex, over the whole file."""

    @classmethod
    def of(cls, folder: Path, name: str) -> "FileRecord":
        """Reads `folder / name` once."""
        with open(folder / name, "rb") as file:
            return cls(name, (folder / name).stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def check_file(folder: Path, record: FileRecord) -> None:
    """Raises `StorageError` unless the file is there, whole and unchanged."""
    file = folder / record.file
    try:
        require_regular_file(file)
        size = file.stat().st_size
        if size != record.bytes:
            raise StorageError(f"{file} has {size:,} bytes where its index says {record.bytes:,}")
        if FileRecord.of(folder, record.file) != record:
            raise StorageError(f"{file} differs from what was written (SHA-256)")
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error.strerror})") from error


def write_index(file: Path, content: Index) -> None:
    """Writes `content` as JSON together with its own SHA-256, and waits for the disk."""
    text = json.dumps({"content": content, "sha256": _digest(content)}, indent=1)
    with open(file, "w", encoding="utf-8") as target:
        target.write(text + "\n")
        target.flush()
        os.fsync(target.fileno())


def read_index(file: Path, version: int) -> Index:
    """What `write_index` wrote; raises `StorageError` for anything else, and for another `schema_version`."""
    try:
        require_regular_file(file)
        written = json.loads(file.read_text(encoding="utf-8"))
        content = written["content"]
        if written["sha256"] != _digest(content):
            raise StorageError(f"{file} differs from what was written (SHA-256)")
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        raise StorageError(f"{file} differs from what was written (it is no index)") from None
    if not isinstance(content, dict) or content.get("schema_version") != version:
        found = content.get("schema_version") if isinstance(content, dict) else None
        raise StorageError(f"{file} has schema_version {str(found)[:40]}, this version reads {version}")
    try:
        wrong = _wrong(content)
    except (KeyError, TypeError, AttributeError):
        wrong = "fields"
    if wrong:
        raise StorageError(f"{file} describes {wrong} that no checkpoint has")
    return content


def _wrong(content: Index) -> str:
    """What cannot be read safely although the hash is right: whoever changed it may have made that too."""
    names = {record["file"] for record in content["files"]}
    for record in content["files"]:
        plain = isinstance(record["file"], str) and re.fullmatch(r"part-\d{5,}\.safetensors", record["file"], re.ASCII)
        if not (plain and whole(record["bytes"]) and isinstance(record["sha256"], str) and len(record) == 3):
            return "files"
    for name, tensor in content["tensors"].items():
        shape = tensor["shape"]
        if tensor["dtype"] not in DTYPES or not all(map(whole, shape)):
            return f"a tensor '{name[:80]}'"
        covered = 0
        for chunk in tensor["chunks"]:
            place = chunk["offsets"], chunk["shape"]
            numbers = all(len(part) == len(shape) and all(map(whole, part)) for part in place)
            if chunk["file"] not in names or not numbers:
                return f"pieces of '{name[:80]}'"
            if any(first + size > most for first, size, most in zip(*place, shape, strict=True)):
                return f"pieces of '{name[:80]}'"
            covered += math.prod(chunk["shape"])
        if covered != math.prod(shape) or _overlap(tensor["chunks"]):
            return f"pieces of '{name[:80]}'"
    return ""


def _overlap(chunks: list[dict[str, Any]]) -> bool:
    """Whether two pieces share a place. Neighbours in order of their first row are compared, and equal first rows."""
    ends: dict[tuple[int, ...], int] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk["offsets"]):
        if not chunk["offsets"] or not math.prod(chunk["shape"]):
            continue
        columns = (*chunk["offsets"][1:], *chunk["shape"][1:])
        if ends.get(columns, 0) > chunk["offsets"][0]:
            return True
        ends[columns] = chunk["offsets"][0] + chunk["shape"][0]
    return False


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
