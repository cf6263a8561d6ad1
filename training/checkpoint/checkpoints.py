"""Checkpoints of a run: written behind the loop's back, checked, published by one rename, found again on any ranks.

`RUN/checkpoints/NAME/` holds a `part-RRRRR.safetensors` for each rank and `checkpoint.json` (`storage`);
`RUN/checkpoints/latest` and `best` are files that hold the name of one.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.common.distributed import (
    barrier,
    broadcast_object,
    logger,
    on_all_ranks,
    on_rank_0,
    rank,
    side_group,
    world_size,
)
from skipwise.common.errors import UserError, brief
from skipwise.common.files import require_regular_file, write_text
from skipwise.training.checkpoint.checkpoint_index import (
    FileRecord,
    Index,
    StorageError,
    check_file,
    read_index,
    write_index,
)
from skipwise.training.checkpoint.state import Staging, Tensors, model_tensors
from skipwise.training.checkpoint.storage import ShardReader, ShardWriter
from skipwise.training.run.directory import CHECKPOINTS
from skipwise.training.run.position import PHASES, Position

INDEX = "checkpoint.json"
_SCHEMA_VERSION = 1


class Checkpoints:
    """Writes a run's checkpoints and keeps the newest and the best."""

    def __init__(self, run_path: Path, keep: int, facts: dict[str, Any]):
        """`facts` go into every index: what the run was trained on."""
        self._folder, self._keep, self._facts = run_path / CHECKPOINTS, keep, facts
        self._staging = Staging()
        self._writing: Future | None = None
        self.saved: str | None = None
        """The name of the last one begun or resumed from."""
        if rank() == 0:
            self._folder.mkdir(exist_ok=True)
            for left_over in self._folder.glob(".*"):
                _remove(left_over)
        barrier()

    def save(self, tensors: Tensors, position: Position) -> None:
        """Copies `tensors` and lets the loop go on; a checkpoint still being written is waited for first.

        Its own name among the position's makes it the best. Nothing is written anew for the position of the last one.
        """
        if self.saved == position.name:
            return
        self.wait()
        aside = self._folder / f".{position.name}.partial"

        def publish(index: Index) -> None:
            content = {"schema_version": _SCHEMA_VERSION, "ranks": world_size(), "position": asdict(position)}
            write_index(aside / INDEX, content | self._facts | index)
            self._publish(aside, position)

        def make() -> None:
            _remove(aside)
            aside.mkdir()

        on_rank_0(make, self._cannot_write)
        self._writing = dcp.async_save(
            tensors,
            storage_writer=ShardWriter(aside, publish),
            async_stager=self._staging,
            process_group=side_group("checkpoints"),
        )
        self.saved = position.name

    def prepare(self, tensors: Tensors) -> None:
        """Takes the memory that `save` copies into, so that the first one is no slower than the others."""
        self._staging.stage(tensors)

    def resume(self, position: Position) -> None:
        """The run goes on from `position`: what was marked as best after it is so no longer."""
        self.saved = position.name
        if rank() == 0:
            self._point(position)
        barrier()

    @property
    def failed(self) -> bool:
        """Whether the last one could not be written, as far as this rank knows."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Until the last one is published; raises `UserError` on every rank where it could not be written."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            writing.result()
        except CheckpointException as error:
            reasons = "; ".join(sorted({_words(caught) for caught, _ in error.failures.values()}))
            raise UserError(self._cannot_write(reasons)) from error

    def close(self) -> None:
        """Waits, and frees the copies."""
        self.wait()
        self._staging.close()

    def _cannot_write(self, reason: str) -> str:
        return (
            f"{self._folder} cannot take a checkpoint ({reason}): mend that and start again, which goes on from the "
            "last whole one"
        )

    def _publish(self, aside: Path, position: Position) -> None:
        target = self._folder / position.name
        _sync(aside)
        if target.exists():
            _remove(target)
        os.rename(aside, target)
        _sync(self._folder)
        self._point(position)
        for name in _names(self._folder)[self._keep :]:
            if name != position.best_checkpoint:
                _remove(self._folder / name)

    def _point(self, position: Position) -> None:
        write_text(self._folder / "latest", f"{position.name}\n")
        if position.best_checkpoint:
            write_text(self._folder / "best", f"{position.best_checkpoint}\n")


def find_newest(run_path: Path) -> tuple[str, Index, Position] | None:
    """The newest whole checkpoint, equal on every rank. A damaged one is said to be so and moved out of the way."""
    folder = run_path / CHECKPOINTS
    for name in broadcast_object(_names(folder) if rank() == 0 else None):
        try:
            index = open_checkpoint(folder / name)
        except UserError as error:
            logger.warning(f"skipped a damaged checkpoint, now called damaged-{name}: {error}")
            if rank() == 0:
                _remove(folder / f"damaged-{name}")
                os.rename(folder / name, folder / f"damaged-{name}")
            barrier()
            continue
        return name, index, Position.of(index, folder / name / INDEX)
    return None


def open_checkpoint(path: Path) -> Index:
    """The index of a checkpoint whose files are all whole, which the ranks check side by side.

    Raises the same `UserError` on every rank otherwise.
    """

    def read() -> Index:
        with _refusing():
            index = read_index(path / INDEX, _SCHEMA_VERSION)
            Position.of(index, path / INDEX)
            return index

    def check() -> None:
        with _refusing():
            for record in index["files"][rank() :: world_size()]:
                check_file(path, FileRecord(**record))

    index = on_rank_0(read)
    on_all_ranks(check)
    return index


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise UserError(f"{error}: expected a whole checkpoint; take another, or train again") from error


def load_tensors(tensors: Tensors, path: Path, index: Index) -> None:
    """Reads a checkpoint into live tensors, in place, on any number of ranks; refuses other shapes and names."""
    for name, tensor in tensors.items():
        saved = index["tensors"].get(name)
        if saved is None:
            raise UserError(f"{path} holds no '{name}': it was written under another config; train again")
        if saved["shape"] != list(tensor.shape):
            hint = "the config it was trained with"
            if isinstance(tensor, ShardedTensor) and len(saved["shape"]) == 1:
                hint = "the sharding and number of ranks it was saved with: column shards keep a state each"
            raise UserError(f"{path}: '{name}' has shape {saved['shape']}, expected {list(tensor.shape)}; use {hint}")
    try:
        dcp.load(tensors, storage_reader=ShardReader(path, index))
    except CheckpointException as error:
        reasons = "; ".join(sorted({_words(caught) for caught, _ in error.failures.values()}))
        raise UserError(f"{path} cannot be read ({reasons}): take another checkpoint, or train again") from error


def best_checkpoint(run_path: Path) -> Path:
    """Where a run's best weights are; raises `UserError` where there are none."""
    file = run_path / CHECKPOINTS / "best"
    try:
        require_regular_file(file)
        name = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: expected the name of a run's best checkpoint; train first") from error
    if name not in _names(file.parent):
        raise UserError(f"{file} names no checkpoint beside it: expected what train wrote; train again")
    return file.parent / name


def start_checkpoint(run_path: Path) -> Path:
    """Where another run may start from: the best, or the newest of a run that has not validated yet."""
    names = _names(run_path / CHECKPOINTS)
    if names and not (run_path / CHECKPOINTS / "best").exists():
        return run_path / CHECKPOINTS / names[0]
    return best_checkpoint(run_path)


def load_best(model: DistributedModelParallel, run_path: Path) -> None:
    """Reads a run's best weights into `model`, in place, on any number of ranks."""
    path = best_checkpoint(run_path)
    tensors = model_tensors(model)
    load_tensors(tensors, path, open_checkpoint(path))


def _names(folder: Path) -> list[str]:
    """Whole checkpoints, the furthest first."""
    names = []
    for path in folder.glob("*/"):
        phase, *numbers = path.name.split("-")
        if phase in PHASES and len(numbers) == 2 and all(number.isdecimal() for number in numbers):
            names.append((PHASES.index(phase), *map(int, numbers), path.name))
    return [name for *_, name in sorted(names, reverse=True)]


def _remove(path: Path) -> None:
    """Gone at one blow, then piece by piece: what is half removed never looks like a checkpoint."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path.with_name(f".{path.name.lstrip('.')}.old")
    if path != hidden:
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Waits until the disk has the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or brief(error)
