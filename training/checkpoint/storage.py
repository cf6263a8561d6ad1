"""A checkpoint's files: one safetensors file for each rank and a JSON index, behind `torch.distributed.checkpoint`.

torch's own file writer keeps its index as a pickle, which executes code when it is read. Here nothing is executed: an
index is JSON, a tensor is raw bytes, and the index has every file's SHA-256. Files are streamed from the tensors in
pieces, without a second copy of a shard in memory, and read back and compared before they are published. Only the rows
that are needed are read. What cannot be read or written is an `OSError`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from skipwise.common.errors import brief
from skipwise.common.files import FileRecord
from skipwise.training.checkpoint.checkpoint_index import CheckpointIndex, Chunk, DType, SavedTensor

_DTYPES: dict[DType, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
}
_PIECE = 8 << 20
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class ShardWriter(StorageWriter):
    """Writes this rank's chunks into `folder`; rank 0 then calls `publish` with the tensors and files, all written."""

    def __init__(self, folder: Path, publish: Callable[[dict[str, SavedTensor], list[FileRecord]], None]):
        self._folder, self._publish = folder, publish

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """One writer serves one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The folder is there already."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(plan, storage_data=f"part-{rank:05}.safetensors") for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors = {}
        for item in plan.items:
            tensor = planner.resolve_data(item)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{item.index.fqn} is no tensor: a checkpoint holds tensors, and JSON beside them")
            tensors[_key(item.index)] = tensor.detach().cpu().contiguous()
        record = _write(self._folder / plan.storage_data, tensors)
        results: Future[list[WriteResult]] = Future()
        results.set_result([WriteResult(item.index, 0, record) for item in plan.items])
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = {result.index: result.storage_data for part in results for result in part}
        tensors = {}
        for name, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)  # `write_data` refuses all else
            chunks = [
                Chunk(
                    offsets=list(chunk.offsets),
                    shape=list(chunk.sizes),
                    file=written[MetadataIndex(name, chunk.offsets)].file,
                )
                for chunk in tensor.chunks
            ]
            tensors[name] = SavedTensor(dtype=_NAMES[tensor.properties.dtype], shape=list(tensor.size), chunks=chunks)
        files = {record.file: record for record in written.values()}
        self._publish(tensors, [files[name] for name in sorted(files)])

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


class ShardReader(StorageReader):
    """Reads what `ShardWriter` wrote into `folder`, by its `index`, on any number of ranks."""

    def __init__(self, folder: Path, index: CheckpointIndex):
        self._folder, self._index = folder, index

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """One reader serves one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        files = {}
        for name, tensor in self._index.tensors.items():
            chunks = [
                ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.shape)) for chunk in tensor.chunks
            ]
            properties = TensorProperties(_DTYPES[tensor.dtype])
            tensors[name] = TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)
            for chunk in tensor.chunks:
                files[MetadataIndex(name, chunk.offsets)] = chunk.file
        return Metadata(tensors, storage_data=files)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._files = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            where = [
                slice(first, first + length) for first, length in zip(item.storage_offsets, item.lengths, strict=True)
            ]
            target = planner.resolve_tensor(item)
            target.detach().copy_(_read(self._folder, self._files[item.storage_index], item.storage_index, where))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def read_rows(folder: Path, index: CheckpointIndex, name: str, first: int, last: int) -> Tensor:
    """Reads rows `first` up to `last` of a tensor, from all files that hold a part of them."""
    tensor = index.tensors[name]
    rows = torch.empty(last - first, *tensor.shape[1:], dtype=_DTYPES[tensor.dtype])
    for chunk in tensor.chunks:
        (start, *offsets), (length, *lengths) = chunk.offsets, chunk.shape
        low, high = max(first, start), min(last, start + length)
        if low < high:
            others = [slice(offset, offset + size) for offset, size in zip(offsets, lengths, strict=True)]
            where = [slice(low - start, high - start)]
            place = MetadataIndex(name, chunk.offsets)
            rows[(slice(low - first, high - first), *others)] = _read(folder, chunk.file, place, where)
    return rows


def _key(index: MetadataIndex) -> str:
    """The name of a chunk within a file: a tensor's chunks may share one."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


def _write(file: Path, tensors: dict[str, Tensor]) -> FileRecord:
    """Streams a safetensors file to the disk, and reads it back from there."""
    header, end = {}, 0
    for key, tensor in tensors.items():
        first, end = end, end + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [first, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with open(file, "wb", buffering=0) as target:
        for piece in _pieces(head, tensors):
            digest.update(piece)
            while piece:
                piece = piece[target.write(piece) :]
        os.fsync(target.fileno())
        if hasattr(os, "posix_fadvise"):
            # Dropped from the page cache, it is read back from the disk itself.
            os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    record = FileRecord(file=file.name, bytes=8 + len(head) + end, sha256=digest.hexdigest())
    if difference := record.problem(file.parent):
        raise OSError(difference)
    return record


def _pieces(head: bytes, tensors: dict[str, Tensor]) -> Iterator[memoryview]:
    """The file's bytes: the header's length, the header, and each tensor's numbers."""
    yield memoryview(len(head).to_bytes(8, "little") + head)
    for tensor in tensors.values():
        if tensor.numel():
            numbers = tensor.reshape(-1).view(torch.uint8).numpy().data
            for first in range(0, len(numbers), _PIECE):
                yield numbers[first : first + _PIECE]


def _read(folder: Path, file: str, index: MetadataIndex, where: list[slice]) -> Tensor:
    try:
        with safe_open(folder / file, framework="pt") as source:
            if not where:
                return source.get_tensor(_key(index))
            found = source.get_slice(_key(index))[tuple(where)]
    except (SafetensorError, OSError) as error:
        raise OSError(f"{folder / file} cannot be read ({brief(error)})") from error
    if list(found.shape[: len(where)]) != [part.stop - part.start for part in where]:
        raise OSError(f"{folder / file} holds another '{_key(index)}' than the index of the checkpoint says")
    return found
