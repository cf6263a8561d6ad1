"""Ranks: joining and leaving the group, the device, and a logger that only rank 0 speaks through."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from skipwise.common.errors import UserError
from skipwise.common.machine import keep_freed_memory

Result = TypeVar("Result")

logger = logging.getLogger("skipwise")
_side_groups: dict[str, tuple[dist.ProcessGroup, dist.ProcessGroup]] = {}


def rank() -> int:
    """This process's number among all ranks; 0 outside a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work together; 1 outside a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """This rank's GPU where there is one, the CPU otherwise."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the ranks that torchrun started, or makes a group of one; leaves it at the end.

    A group that exists already (a test's) is used and left alone.
    """
    if dist.is_initialized():
        yield
        return
    _quiet_libraries()
    keep_freed_memory()
    backend = "nccl" if device().type == "cuda" else "gloo"
    if device().type == "cuda":
        torch.cuda.set_device(device())
    if "RANK" in os.environ:
        number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=_launchers_store(), rank=number, world_size=count)
        try:
            yield
        except RuntimeError as error:
            if not _lost_a_rank(error):
                raise
            # Its own launcher has the reason; this rank's part is to make room for the restart.
            print(f"skipwise: rank {number} ends, as it lost another rank: {str(error)[:200]}", file=sys.stderr)
            raise SystemExit(1) from None
        finally:
            dist.destroy_process_group()
        return
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _launchers_store() -> dist.Store:
    """The store of torchrun's agent, where ranks find each other, with names of their own for each restart.

    torch 2.13 leaves the addresses of the ranks that died there, and new ones try to reach them.
    """
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not served and os.environ["RANK"] == "0",
    )
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _lost_a_rank(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistNetworkError | dist.DistBackendError):
        return True
    return any(words in str(error) for words in ("gloo", "Gloo", "Connection reset", "Connection closed", "NCCL"))


def _quiet_libraries() -> None:
    """Rank 0 speaks, one plain line at a time; TorchRec's and torch's notes to their own developers are left out."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)
    for library in ("torch", "torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(library).setLevel(logging.ERROR)
    deprecations = ".*(ShardedTensor|broadcast_buffers|torch.distributed).*"
    warnings.filterwarnings("ignore", category=FutureWarning, message=deprecations)


def side_group(purpose: str) -> dist.ProcessGroup:
    """A gloo group of all ranks for one purpose: what two threads say to other ranks must not share a group.

    All ranks must ask for a purpose at the same place. It lives as long as the default group.
    """
    if purpose not in _side_groups or _side_groups[purpose][0] is not dist.group.WORLD:
        _side_groups[purpose] = dist.group.WORLD, dist.new_group(backend="gloo")
    return _side_groups[purpose][1]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's `value`, in rank order; for small things."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(local_BX: Tensor) -> Tensor:
    """Every rank's rows, stacked in rank order; all ranks give the same shape."""
    if world_size() == 1:
        return local_BX
    pieces = [torch.empty_like(local_BX) for _ in range(world_size())]
    dist.all_gather(pieces, local_BX.contiguous())
    return torch.cat(pieces)


def sum_ranks(values: Tensor) -> Tensor:
    """The sum of all ranks' `values`, which it replaces."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    """Waits until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def broadcast_object(value):
    """Rank 0's `value`, on every rank."""
    if world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def on_all_ranks(function: Callable[[], Result]) -> Result:
    """`function()` on every rank; where it fails on one, all raise the same `UserError`.

    A bug keeps its own traceback on the rank that has it. `function` must not communicate: the ranks meet only once
    it has ended everywhere.
    """
    result, bug, sentence = None, None, None
    try:
        result = function()
    except UserError as error:
        sentence = str(error)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        sentence = f"the export cannot be written ({reason}): mend that or choose another --output"
    except Exception as error:
        bug, sentence = error, f"rank {rank()} failed ({type(error).__name__}: {error})"
    sentences = [words for words in gather_objects(sentence) if words]
    if bug:
        raise bug
    if sentences:
        raise UserError(sentences[0])
    return result
