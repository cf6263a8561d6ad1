"""A checkpoint's files: one safetensors file for each rank, written through `torch.distributed.checkpoint`.

torch's own file writer keeps its index as a pickle, which executes code when it is read. Here nothing is executed: an
index is JSON, a tensor is raw bytes, and the index has every file's SHA-256. Files are streamed from the tensors in
pieces, without a second copy of a shard in memory, and read back and compared before they are published. Only what is
needed of a tensor is read, from any number of files. What cannot be read or written is an `OSError`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from skipwise.common.errors import brief
from skipwise.common.files import FileRecord
from skipwise.common.work_folders import bring_parts
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

    def __init__(
        self,
        folder: Path,
        publish: Callable[[dict[str, SavedTensor], list[FileRecord]], None],
        written: Callable[[Path], object] = lambda file: None,
    ):
        """`written`: called with this rank's file, once it is on the disk."""
        self._folder, self._publish, self._written = folder, publish, written

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
            tensors[_key(item.index.fqn, item.index.offset or ())] = tensor.detach().cpu().contiguous()
        record = _write(self._folder / plan.storage_data, tensors)
        self._written(self._folder / record.file)
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


def read_box(folder: Path, index: CheckpointIndex, name: str, first: Sequence[int], target: Tensor) -> None:
    """Fills `target` with the part of a tensor that begins at `first`, from all files that hold some of it."""
    missing = target.numel()
    for chunk in index.tensors[name].chunks:
        starts = list(map(max, first, chunk.offsets))
        ends = [min(a + m, b + n) for a, m, b, n in zip(first, target.shape, chunk.offsets, chunk.shape, strict=True)]
        if all(start < end for start, end in zip(starts, ends, strict=True)):
            there, here = (
                tuple(slice(start - zero, end - zero) for start, end, zero in zip(starts, ends, zeros, strict=True))
                for zeros in (chunk.offsets, first)
            )
            bring_parts(folder, [chunk.file])
            source = _read(
                folder / chunk.file, _key(name, chunk.offsets), index.tensors[name].dtype, chunk.shape, there
            )
            missing -= target[here].copy_(source).numel()
    if missing:
        raise OSError(f"{folder}: its files hold '{name}' in part, or twice")


def read_rows(folder: Path, index: CheckpointIndex, name: str, first: int, last: int) -> Tensor:
    """Reads rows `first` up to `last` of a tensor."""
    tensor = index.tensors[name]
    rows = torch.empty(last - first, *tensor.shape[1:], dtype=_DTYPES[tensor.dtype])
    read_box(folder, index, name, [first, *[0] * len(tensor.shape[1:])], rows)
    return rows


def _key(name: str, offsets: Sequence[int]) -> str:
    """The name of a chunk within a file: a tensor's chunks may share one."""
    return f"{name}@{','.join(map(str, offsets))}"


def _write(file: Path, tensors: dict[str, Tensor]) -> FileRecord:
    """Streams a safetensors file to the disk, and reads it back from there."""
    header, end = {}, 0
    for key, tensor in tensors.items():
        first, end = end, end + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [first, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with open(file, "wb") as target:
        for content in (memoryview(len(head).to_bytes(8, "little") + head), *map(_numbers, tensors.values())):
            for first in range(0, len(content), _PIECE):
                digest.update(content[first : first + _PIECE])
                target.write(content[first : first + _PIECE])
        target.flush()
        os.fsync(target.fileno())
        if hasattr(os, "posix_fadvise"):
            # Dropped from the page cache, it is read back from the disk itself.
            os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    record = FileRecord(file=file.name, bytes=8 + len(head) + end, sha256=digest.hexdigest())
    if difference := record.problem(file.parent):
        raise OSError(difference)
    return record


def _numbers(tensor: Tensor) -> memoryview:
    """A tensor's bytes, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _read(file: Path, key: str, dtype: DType, shape: list[int], where: tuple[slice, ...]) -> Tensor:
    try:
        with safe_open(file, framework="pt") as source:
            stored = source.get_slice(key)
            if (stored.get_dtype(), stored.get_shape()) != (dtype, shape):
                raise OSError(
                    f"it holds '{key}' as {stored.get_dtype()} {stored.get_shape()}, expected {dtype} {shape}"
                )
            found: Tensor = stored[where]
            return found
    except (SafetensorError, OSError) as error:
        raise OSError(f"{file} cannot be read ({brief(error)})") from error
