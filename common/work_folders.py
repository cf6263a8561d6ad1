"""What the ranks of one machine or more work on: a folder here, or one of an object store by its copy in the cache.

Machines that have a disk of their own each keep a copy in a cache of their own: what rank 0 writes they fetch, what
they write of a checkpoint they store themselves. The tensors of checkpoints are fetched where a rank reads them.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from skipwise.common.claims import claimed
from skipwise.common.locks import lock_beside, locked
from skipwise.common.mirrors import alone, bring, copy_of, place_of, upload
from skipwise.common.node_disks import is_apart, leads_machine, refuse_apart
from skipwise.common.stores import Place

_SHARE = "name a folder that all machines share, or a URL of an object store"


def work_folder(path: str) -> Path:
    """Returns where `worked_on` has what `path` names."""
    place = Place.of(path)
    return copy_of(place, "work") if place else Path(path)


@contextmanager
def worked_on(path: str, flag: str) -> Iterator[str]:
    """Yields the local directory in which all ranks work on what `path` names, a local directory itself.

    For a URL that is one in the cache, as the store has it but for the tensors of checkpoints; it is stored at the end.
    What is stored before, by `upload`, is there after a kill. Raises the same `UserError` on all ranks.
    """
    place = Place.of(path)
    if place is None:
        yield path
        return
    from skipwise.common.distributed import on_all_ranks, rank  # here, so that other commands do not import torch

    place.require_key()
    folder = work_folder(path)

    def cannot_write(why: str) -> str:
        return f"{folder} cannot be written ({why}): set SKIPWISE_CACHE to another folder"

    with ExitStack() as held:

        def fetch() -> None:
            if rank() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(lock_beside(folder), folder, f"choose another {flag}"))
                held.enter_context(claimed(place, f"choose another {flag}"))
                bring(place, folder, _is_no_tensor, may_be_new=True, only=True)

        on_all_ranks(fetch, cannot_write)
        apart = is_apart(folder)

        def follow() -> None:
            if apart and leads_machine():
                folder.mkdir(parents=True, exist_ok=True)
                bring(place, folder, _is_no_tensor, may_be_new=True, only=True)

        on_all_ranks(follow, cannot_write)
        yield str(folder)
        on_all_ranks(lambda: upload(folder, prune=True) if rank() == 0 else None)


def share(folder: Path) -> None:
    """Shows what rank 0 has written in a directory to all ranks, which call it together, each with its own path.

    Raises the same `UserError` on all ranks where a machine has neither this directory nor a copy of its own.
    """
    from skipwise.common.distributed import on_all_ranks, rank

    on_all_ranks(lambda: upload(folder) if rank() == 0 else None)
    apart, place = is_apart(folder), place_of(folder, "work")
    refuse_apart(apart and place is None, folder, _SHARE)

    def follow() -> None:
        if place and apart and leads_machine():
            bring(place, folder, _is_no_tensor)

    on_all_ranks(follow)


def bring_parts(folder: Path, names: Collection[str]) -> None:
    """Fetches files of a directory of the cache that are not there yet; does nothing for any other directory."""
    place = place_of(folder, "work") or place_of(folder, "read")
    if place and not all((folder / name).exists() for name in names):
        with alone(place):
            bring(place, folder, names.__contains__)


def _is_no_tensor(name: str) -> bool:
    return not name.endswith(".safetensors")
