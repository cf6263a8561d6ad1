"""Whether the machines can hold a training, asked before any work: their memory and the disk of the run directory."""

import os
import socket
from pathlib import Path

from skipwise.common.distributed import device, on_all_ranks, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.machine import available_memory, device_memory, free_disk, process_memory
from skipwise.training.config import RunConfig
from skipwise.training.guards.memory_needs import check_memory, checkpoint_bytes, size, training_needs
from skipwise.training.run.directory import CHECKPOINTS


def check_machines(
    config: RunConfig, num_tracks: int, longest: int, run_dir: Path, num_signals: int = 0, num_values: int = 0
) -> None:
    """Every machine's memory and rank 0's disk; all ranks call it together, and raise the same `UserError`.

    No rank goes on, and takes memory, before all have looked.
    """
    local_rank, local_world_size = (
        int(os.environ.get(name, default))
        for name, default in (("LOCAL_RANK", rank()), ("LOCAL_WORLD_SIZE", world_size()))
    )
    here = range(rank() - local_rank, rank() - local_rank + local_world_size)
    others = num_signals, num_values, max(world_size() // local_world_size, 1)
    needs = training_needs(config, num_tracks, longest, world_size(), *others)

    def look() -> None:
        free = available_memory(), device_memory(device()), process_memory()
        check_memory(config, needs, here, *free, name=socket.gethostname())
        if rank() == 0:
            there = len(list((run_dir / CHECKPOINTS).glob("*/")))  # of a run that goes on
            copies = max(config.checkpoint.keep + 2 - there, 1)
            check_disk(run_dir, checkpoint_bytes(config, num_tracks, world_size(), *others), copies)

    on_all_ranks(look)


def check_disk(path: Path, bytes_each: int, copies: int, free: int | None = None) -> None:
    """Raises `UserError` where `copies` checkpoints do not fit beside `path`; `free`: bytes, read if not given.

    A run holds `--checkpoint.keep` and two: the best and the one being written.
    """
    free = free_disk(path) if free is None else free
    if free is None or bytes_each * copies <= free:
        return
    keep = free // bytes_each - 2
    lower = f"lower --checkpoint.keep to {keep}, or " if keep >= 1 else ""
    raise UserError(
        f"{path} needs room for {copies} checkpoints (--checkpoint.keep, the best and the next) of {size(bytes_each)}, "
        f"{size(bytes_each * copies)} in all, and its disk has {size(free)} free: "
        f"{lower}choose a --run-dir on another disk"
    )
