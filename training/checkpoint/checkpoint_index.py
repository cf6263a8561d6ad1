"""`checkpoint.json`: what a checkpoint's files hold, under hashes that show any change, and read as data alone."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from skipwise.common.errors import UserError
from skipwise.common.files import FileRecord, read_json
from skipwise.common.schema import Count, StrictModel, validate
from skipwise.training.run.position import Position

DType = Literal["F64", "F32", "BF16", "F16", "I64", "I32"]
"""As the safetensors format names them."""
REMEDY = "take another checkpoint, or train again"


class Chunk(StrictModel):
    """A box of a tensor, in one file."""

    offsets: list[Count]
    shape: list[Count]
    file: str


class SavedTensor(StrictModel):
    """A tensor, as the chunks that hold it."""

    dtype: DType
    shape: list[Count]
    chunks: list[Chunk]

    @model_validator(mode="after")
    def _check_chunks(self) -> Self:
        if any(not len(chunk.offsets) == len(chunk.shape) == len(self.shape) for chunk in self.chunks):
            raise ValueError(f"chunks of {len(self.shape)} dimensions")
        return self


class CheckpointIndex(StrictModel):
    """What `checkpoint.json` says of a checkpoint."""

    schema_version: int = 1
    world_size: Count = Field(alias="ranks")
    """Ranks that wrote it."""
    position: Position
    vocabulary_hash: str = ""
    """The hash of the data that the run is trained on."""
    config: dict[str, Any] = {}
    """The run's."""
    tensors: dict[str, SavedTensor]
    files: list[FileRecord]

    def shape_of(self, name: str) -> list[int] | None:
        """The shape of a tensor, None where the checkpoint does not hold it."""
        return self.tensors[name].shape if name in self.tensors else None

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        names = {record.file for record in self.files}
        if any(chunk.file not in names for tensor in self.tensors.values() for chunk in tensor.chunks):
            raise ValueError("has chunks in a file that it does not list")
        return self


def write_index(file: Path, content: dict[str, Any]) -> None:
    """Writes `content` as JSON together with its own SHA-256, and waits for the disk."""
    file.write_text(json.dumps({"content": content, "sha256": _digest(content)}, indent=1) + "\n", encoding="utf-8")
    sync(file)


def read_index(file: Path) -> CheckpointIndex:
    """Reads what `write_index` wrote; raises `UserError` for anything else, and for another `schema_version`.

    A right hash proves nothing about who wrote the file: shapes and file names are checked before any is used.
    """
    written = read_json(file, f"the index of a whole checkpoint; {REMEDY}")
    content = written.get("content")
    if written.get("sha256") != _digest(content):
        raise UserError(f"{file} differs from what was written (SHA-256): expected a whole checkpoint; {REMEDY}")
    return validate(CheckpointIndex, content, file, REMEDY)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
