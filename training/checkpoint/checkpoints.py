"""Checkpoints of a run: written in the background, checked, published by one rename, and loaded on any number of ranks.

`RUN/checkpoints/NAME/` holds a `part-RRRRR.safetensors` for each rank and `checkpoint.json` (`storage`);
`RUN/checkpoints/latest` and `best` are files that hold the name of one.
"""

import os
import re
import shutil
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import async_save
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.common.distributed import (
    barrier,
    logger,
    on_all_ranks,
    on_rank_0,
    rank,
    side_group,
    world_size,
)
from skipwise.common.errors import UserError, brief
from skipwise.common.files import FileRecord, read_text, write_text
from skipwise.common.mirrors import complete, upload
from skipwise.common.node_disks import is_apart, leads_machine
from skipwise.common.work_folders import bring_parts
from skipwise.training.checkpoint.checkpoint_index import (
    REMEDY,
    CheckpointIndex,
    SavedTensor,
    read_index,
    sync,
    write_index,
)
from skipwise.training.checkpoint.state import Staging, Tensors, local_tensors, model_tensors
from skipwise.training.checkpoint.storage import ShardWriter, read_box
from skipwise.training.run.directory import CHECKPOINTS
from skipwise.training.run.position import Position

INDEX = "checkpoint.json"
_NAME = re.compile(r"(train|refit)-(\d+)-(\d+)", re.ASCII)


class Checkpoints:
    """Writes a run's checkpoints and keeps the newest and the best.

    A machine that has a disk of its own stores its ranks' files itself (`work_folders`); rank 0 writes all else.
    """

    def __init__(self, run_path: Path, keep: int, facts: dict[str, Any]):
        """`facts`: the fields `vocabulary_hash` and `config` of every index."""
        self._folder, self._keep, self._facts = run_path / CHECKPOINTS, keep, facts
        self._staging = Staging()
        self._writing: Future[Any] | None = None
        self._saved = ""
        """The name of the last one begun or resumed from."""
        self._apart = is_apart(self._folder)
        self._leads = rank() == 0 or (self._apart and leads_machine())
        if self._leads:
            self._folder.mkdir(exist_ok=True)
            for left_over in self._folder.glob(".*"):
                _remove(left_over)
        barrier()

    def save(self, tensors: Tensors, position: Position) -> None:
        """Copies `tensors` and writes them in the background, once the last checkpoint is written.

        It becomes the best where the position names it so. The position of the last checkpoint is not saved again.
        """
        if self._saved == position.name:
            return
        self.wait()
        # What is apart is nobody's until rank 0 has stored the index.
        unpublished = self._folder / (position.name if self._apart else f".{position.name}.partial")

        def make() -> None:
            if self._apart and self._leads:
                self._prune(position)
            if self._leads:
                unpublished.mkdir(exist_ok=self._apart)

        on_all_ranks(make, self._cannot_write)
        written = upload if self._apart else lambda file: None
        writing = async_save(
            tensors,
            storage_writer=ShardWriter(unpublished, partial(self._publish, unpublished, position), written),
            async_stager=self._staging,
            process_group=side_group("checkpoints"),
        )
        assert isinstance(writing, Future)  # the other type is of stagers that copy in the background
        self._writing, self._saved = writing, position.name

    def prepare(self, tensors: Tensors) -> None:
        """Allocates the memory that `save` copies into, so that the first one is no slower than the others."""
        self._staging.stage(tensors)

    def resume(self, position: Position) -> None:
        """Marks the checkpoint at `position` as the latest, and its best as the best: later ones are written again."""
        self._saved = position.name
        if rank() == 0:
            self._point(position)
        barrier()

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written, as far as this rank knows."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Waits until the last checkpoint is published; raises `UserError` on every rank where it was not written."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except CheckpointException as error:
            caught = [failure for failure, _ in error.failures.values()]
            reasons = {
                str(failure) if isinstance(failure, UserError) else getattr(failure, "strerror", None) or brief(failure)
                for failure in caught
            }
            raise UserError(self._cannot_write("; ".join(sorted(reasons)))) from error

    def close(self) -> None:
        """Waits, and frees the memory of the copies."""
        self.wait()
        self._staging.close()

    def _cannot_write(self, reason: str) -> str:
        return (
            f"{self._folder} cannot take a checkpoint ({reason}): fix that and run the same command, which continues "
            "from the last whole one"
        )

    def _publish(
        self, unpublished: Path, position: Position, tensors: dict[str, SavedTensor], files: list[FileRecord]
    ) -> None:
        index = CheckpointIndex(ranks=world_size(), position=position, tensors=tensors, files=files, **self._facts)
        write_index(unpublished / INDEX, index.model_dump(by_alias=True))
        target = self._folder / position.name
        sync(unpublished)
        _remove(target)
        os.rename(unpublished, target)
        sync(self._folder)
        self._point(position)
        self._prune(position)
        upload(self._folder.parent, prune=True)

    def _prune(self, position: Position) -> None:
        for name in _names(self._folder)[self._keep :]:
            if name != position.best_checkpoint:
                _remove(self._folder / name)

    def _point(self, position: Position) -> None:
        write_text(self._folder / "latest", f"{position.name}\n")
        if position.best_checkpoint:
            write_text(self._folder / "best", f"{position.best_checkpoint}\n")


def find_newest(run_path: Path) -> tuple[str, CheckpointIndex] | None:
    """The name and the index of the newest whole checkpoint, on every rank.

    A damaged one is logged and renamed to `damaged-NAME`.
    """
    folder = run_path / CHECKPOINTS
    names: list[str] = on_rank_0(lambda: _names(folder))
    for name in names:
        try:
            return name, open_checkpoint(folder / name)
        except UserError as error:
            logger.warning(f"skipped a damaged checkpoint, now called damaged-{name}: {error}")
            if rank() == 0:
                _remove(folder / f"damaged-{name}")
                os.rename(folder / name, folder / f"damaged-{name}")
            barrier()
    return None


def open_checkpoint(path: Path) -> CheckpointIndex:
    """Reads a checkpoint's index and checks that its files are whole; each rank checks its share of them.

    Raises the same `UserError` on every rank otherwise.
    """

    def check() -> None:
        for record in index.files[rank() :: world_size()]:
            bring_parts(path, [record.file])
            if difference := record.problem(path):
                raise UserError(f"{difference}: expected a whole checkpoint; {REMEDY}")

    index = on_rank_0(lambda: read_index(path / INDEX))
    on_all_ranks(check)
    return index


def load_tensors(tensors: Tensors, path: Path, index: CheckpointIndex) -> None:
    """Reads a checkpoint into live tensors, in place, on any number of ranks; refuses other shapes and names."""
    for name, tensor in tensors.items():
        shape = index.shape_of(name)
        if shape is None:
            raise UserError(f"{path} holds no '{name}': it was written by another version or config; train again")
        if shape != list(tensor.shape):
            hint = "the config it was trained with"
            if isinstance(tensor, ShardedTensor) and len(shape) == 1:
                hint = "the sharding and number of ranks it was saved with: column shards keep a state each"
            raise UserError(f"{path}: '{name}' has shape {shape}, expected {list(tensor.shape)}; use {hint}")

    def read() -> None:
        for name, tensor in tensors.items():
            firsts = [[0] * tensor.dim()]
            if isinstance(tensor, ShardedTensor):
                firsts = [shard.metadata.shard_offsets for shard in tensor.local_shards()]
            for first, local in zip(firsts, local_tensors(tensor), strict=True):
                read_box(path, index, name, first, local)

    on_all_ranks(read, lambda reason: f"{path} cannot be read ({reason}): {REMEDY}")


def best_checkpoint(run_path: Path) -> Path:
    """The path of a run's best checkpoint; raises `UserError` where there is none."""
    file = run_path / CHECKPOINTS / "best"
    name = read_text(file, "the name of a run's best checkpoint; train first", 1000).strip()
    if _NAME.fullmatch(name):
        complete(file.parent / name)
    if name not in _names(file.parent):
        raise UserError(f"{file} names no checkpoint beside it: expected what train wrote; train again")
    return file.parent / name


def start_checkpoint(run_path: Path) -> Path:
    """The path of the checkpoint that another run starts from: the best, or the newest before any validation."""
    names = _names(run_path / CHECKPOINTS)
    if names and not (run_path / CHECKPOINTS / "best").exists():
        return run_path / CHECKPOINTS / names[0]
    return best_checkpoint(run_path)


def load_best(model: DistributedModelParallel, run_path: Path) -> None:
    """Reads a run's best weights into `model`, in place, on any number of ranks."""
    path = run_path / CHECKPOINTS / on_rank_0(lambda: best_checkpoint(run_path).name)
    tensors = model_tensors(model)
    load_tensors(tensors, path, open_checkpoint(path))


def _names(folder: Path) -> list[str]:
    """The published checkpoints, the newest first."""
    found = [parts for path in folder.glob("*/") if (parts := _NAME.fullmatch(path.name))]
    found.sort(key=lambda parts: (parts[1] == "refit", int(parts[2]), int(parts[3])), reverse=True)
    return [parts[0] for parts in found]


def _remove(path: Path) -> None:
    """Renames, then removes: what is removed in part never looks like a checkpoint."""
    if path.is_dir():
        hidden = path.with_name(f".{path.name.lstrip('.')}.old")
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
