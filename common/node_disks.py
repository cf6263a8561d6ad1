"""Disks of machines that train together: which of them see the same files, and files handed from one to another."""

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from skipwise.common.errors import UserError

_PIECE = 8 << 20


def on_one_machine() -> bool:
    """Returns whether all ranks run on this machine, as the launcher says; True without a launcher."""
    from skipwise.common.distributed import world_size  # torch, for which other commands do not wait

    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) == world_size()


def num_machines() -> int:
    """Returns on how many machines the ranks run, as many on each; 1 without a launcher."""
    from skipwise.common.distributed import world_size

    return max(world_size() // int(os.environ.get("LOCAL_WORLD_SIZE", world_size())), 1)


def leads_machine() -> bool:
    """Returns whether this is the first rank of its machine."""
    from skipwise.common.distributed import rank

    return int(os.environ.get("LOCAL_RANK", rank())) == 0


def is_apart(folder: Path) -> bool:
    """Returns whether this machine's `folder` is another one than rank 0's, on a disk of its own.

    All ranks call it together, each with its own path. The folder is made on rank 0.
    """
    if on_one_machine():
        return False
    from skipwise.common.distributed import barrier, broadcast_object, on_all_ranks, rank

    mark = folder / broadcast_object(f".{secrets.token_hex(8)}.seen")

    def make() -> None:
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()

    on_all_ranks(make, lambda why: f"{folder} cannot be written ({why}): name another folder")
    apart = not mark.exists()
    barrier()
    if rank() == 0:
        mark.unlink(missing_ok=True)
    return apart


def refuse_apart(apart: bool, folder: Path, remedy: str) -> None:
    """Raises the same `UserError` on all ranks where a machine is apart in `folder`."""
    from skipwise.common.distributed import on_all_ranks

    def look() -> None:
        if apart:
            raise UserError(f"{folder} on {socket.gethostname()} is not the folder of that name on rank 0's: {remedy}")

    on_all_ranks(look)


def hand_to_rank_0(path_of: Callable[[int], Path], apart: bool) -> None:
    """Copies each rank's file to rank 0's disk, where its machine is apart; all ranks call it together.

    `path_of`: the path of a rank's file, on its own disk and on rank 0's.
    """
    if on_one_machine():
        return
    import torch
    import torch.distributed as dist

    from skipwise.common.distributed import gather_objects, rank, side_group

    me = rank()
    sizes = gather_objects(path_of(me).stat().st_size if apart else None)
    if any(size is not None for size in sizes):
        group = side_group("files")
    for source, size in enumerate(sizes):
        if size is None or me not in (0, source):
            continue
        with open(path_of(source), "wb" if me == 0 else "rb", buffering=0) as file:
            for first in range(0, size, _PIECE):
                piece = torch.empty(min(_PIECE, size - first), dtype=torch.uint8)
                if me == 0:
                    dist.recv(piece, source, group=group)
                    file.write(piece.numpy().data)
                else:
                    file.readinto(piece.numpy().data)
                    dist.send(piece, 0, group=group)
