"""`checkpoint.json`: what a checkpoint's files hold, under hashes that show any change, and read as data alone."""

import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from skipwise.common.errors import UserError
from skipwise.common.files import FileRecord, read_json
from skipwise.common.schema import Count, StrictModel, validate
from skipwise.training.run.position import Position

DType = Literal["F64", "F32", "BF16", "F16", "I64", "I32"]
"""As the safetensors format names them."""
REMEDY = "take another checkpoint, or train again"


def _named_as_part(record: FileRecord) -> FileRecord:
    if not re.fullmatch(r"part-\d{5,}\.safetensors", record.file, re.ASCII):
        raise ValueError("a record of part-NNNNN.safetensors")
    return record


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
        for chunk in self.chunks:
            if len(chunk.offsets) != len(self.shape) or len(chunk.shape) != len(self.shape):
                raise ValueError(f"chunks of {len(self.shape)} dimensions")
            ends = [first + size for first, size in zip(chunk.offsets, chunk.shape, strict=True)]
            if any(end > size for end, size in zip(ends, self.shape, strict=True)):
                raise ValueError("chunks inside of its shape")
        if sum(math.prod(chunk.shape) for chunk in self.chunks) != math.prod(self.shape) or _overlap(self.chunks):
            raise ValueError("chunks that cover its shape once")
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
    files: list[Annotated[FileRecord, AfterValidator(_named_as_part)]]

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
    text = json.dumps({"content": content, "sha256": _digest(content)}, indent=1)
    with open(file, "w", encoding="utf-8") as target:
        target.write(text + "\n")
        target.flush()
        os.fsync(target.fileno())


def read_index(file: Path) -> CheckpointIndex:
    """Reads what `write_index` wrote; raises `UserError` for anything else, and for another `schema_version`.

    A right hash proves nothing about who wrote the file: offsets and file names are checked before any is used.
    """
    written = read_json(file, f"the index of a whole checkpoint; {REMEDY}")
    content = written.get("content")
    try:
        whole = written.get("sha256") == _digest(content)
    except RecursionError:
        whole = False
    if not whole:
        raise UserError(f"{file} differs from what was written (SHA-256): expected a whole checkpoint; {REMEDY}")
    return validate(CheckpointIndex, content, file, REMEDY)


def _overlap(chunks: list[Chunk]) -> bool:
    """Whether two chunks share a place. Neighbours in order of their first row are compared, and equal first rows."""
    ends: dict[tuple[int, ...], int] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets):
        if not chunk.offsets or not math.prod(chunk.shape):
            continue
        columns = (*chunk.offsets[1:], *chunk.shape[1:])
        if ends.get(columns, 0) > chunk.offsets[0]:
            return True
        ends[columns] = chunk.offsets[0] + chunk.shape[0]
    return False


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
