"""Ranks: the process group, the device, collectives, work that fails on all ranks alike, and rank 0's logger."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from skipwise.common.errors import UserError, brief, reason
from skipwise.common.machine import keep_freed_memory

Result = TypeVar("Result")

logger = logging.getLogger("skipwise")
_side_groups: dict[str, tuple[dist.ProcessGroup | None, dist.ProcessGroup]] = {}


def rank() -> int:
    """Returns this process's rank; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """Returns this rank's GPU where there is one, the CPU otherwise."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def process_group() -> Iterator[None]:
    """Initializes the process group, of torchrun's ranks or of this process alone, and destroys it at the end.

    A group that exists already (a test's) is used and kept. On one node gloo listens on the loopback interface alone:
    ranks unpickle what they receive.
    """
    if dist.is_initialized():
        yield
        return
    _quiet_libraries()
    keep_freed_memory()
    backend = "nccl" if device().type == "cuda" else "gloo"
    if device().type == "cuda":
        torch.cuda.set_device(device())
    launched = "RANK" in os.environ
    number, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or os.environ.get("LOCAL_WORLD_SIZE") == str(count):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = _agent_store() if launched else dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        yield
    except RuntimeError as error:
        if not (launched and _lost_a_rank(error)):
            raise
        # The lost rank's launcher reports the reason; this rank only has to exit for the restart.
        print(f"skipwise: rank {number} ends, as it lost another rank: {brief(error)}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        dist.destroy_process_group()


def _agent_store() -> Any:
    """Connects to the store of torchrun's agent, with a prefix for each restart, or to rank 0's, new at each.

    torch 2.13 leaves the addresses of the ranks that ended in an agent's store, and new ranks would try to reach them.
    `components/torchrun.bash` gives ranks of several machines a store of rank 0, as machines count restarts apart.
    """
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not hosted and os.environ["RANK"] == "0",
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if hosted else "0"
    return dist.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]


def _lost_a_rank(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistNetworkError | dist.DistBackendError):
        return True
    return any(words in str(error) for words in ("gloo", "Gloo", "Connection reset", "Connection closed", "NCCL"))


def _quiet_libraries() -> None:
    """Logs plain lines on rank 0 alone, and hides the libraries' warnings for their own developers."""
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
    """Returns a gloo group of all ranks for one purpose: two threads must not run collectives in the same group.

    All ranks must call it at the same point. The group lives as long as the default group.
    """
    if purpose not in _side_groups or _side_groups[purpose][0] is not dist.group.WORLD:
        _side_groups[purpose] = dist.group.WORLD, dist.new_group(backend="gloo")
    return _side_groups[purpose][1]


def gather_objects(value: Any) -> list[Any]:
    """Returns every rank's `value`, in rank order; for small objects."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(local_BX: Tensor) -> Tensor:
    """Returns every rank's rows, concatenated in rank order; all ranks give the same shape."""
    if world_size() == 1:
        return local_BX
    if local_BX.device.type == "cpu":
        return _exchanged(local_BX.expand(world_size(), *local_BX.shape)).flatten(0, 1)
    pieces = [torch.empty_like(local_BX) for _ in range(world_size())]
    dist.all_gather(pieces, local_BX.contiguous())
    return torch.cat(pieces)


def scatter_sums(values_BX: Tensor) -> Tensor:
    """Returns this rank's block of the sum of all ranks' values, whose rows are as many for each rank, in rank order.

    gloo's own reduce-scatter sums all blocks on all ranks: twice the bytes.
    """
    shape = len(values_BX) // world_size(), *values_BX.shape[1:]
    if values_BX.device.type != "cpu":
        part_RX = values_BX.new_empty(shape)
        dist.reduce_scatter_single(part_RX, values_BX.contiguous())
        return part_RX
    return _exchanged(values_BX.view(world_size(), *shape)).sum(dim=0)


def sum_ranks(values: Tensor) -> Tensor:
    """Replaces `values`, which are few, by their sum over all ranks, and returns them."""
    if world_size() > 1 and values.device.type == "cpu":
        values.copy_(_exchanged(values.expand(world_size(), *values.shape)).sum(dim=0))
    elif world_size() > 1:
        dist.all_reduce(values)
    return values


def _exchanged(values_GX: Tensor) -> Tensor:
    """What each rank has for this one, by rank: one hop of gloo, whose rings of all others take as many as ranks."""
    values_GX = values_GX.contiguous()
    received_GX = torch.empty_like(values_GX)
    dist.all_to_all_single(received_GX, values_GX)
    return received_GX


class Highest:
    """The highest of all ranks' numbers, exchanged while other work goes on; all ranks make them in the same order."""

    def __init__(self, number: int):
        self._received_G = torch.empty(world_size(), dtype=torch.int64)
        own_G = torch.full((world_size(),), number)
        self._work = dist.all_to_all_single(self._received_G, own_G, group=side_group("control"), async_op=True)

    def wait(self) -> int:
        """Returns it once all ranks have given theirs."""
        self._work.wait()
        return int(self._received_G.max())


def barrier() -> None:
    """Waits until every rank has called it."""
    if world_size() > 1:
        dist.barrier()


def broadcast_object(value: Any) -> Any:
    """Returns rank 0's `value` on every rank."""
    if world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def on_all_ranks(function: Callable[[], Result], os_error: Callable[[str], str] | None = None) -> Result:
    """Calls `function()` on every rank and returns this rank's result; where it fails on one, all raise a `UserError`.

    All raise the same sentence: the first rank's of those that failed. `os_error` turns the reason of an `OSError` into
    a sentence; without it, and for any other exception, the rank that failed raises its own exception, and the others
    name it. `function` must not communicate: the ranks meet once it has ended on all of them.
    """
    result: Any = None
    sentence: str | None = None
    error: Exception | None = None
    try:
        result = function()
    except UserError as refusal:
        sentence = str(refusal)
    except Exception as failure:
        if os_error and isinstance(failure, OSError):
            sentence = os_error(reason(failure))
        else:
            sentence, error = f"rank {rank()} failed ({type(failure).__name__}: {failure})", failure
    sentence = next(filter(None, gather_objects(sentence)), None)
    if error:
        raise error
    if sentence:
        raise UserError(sentence)
    return cast(Result, result)


def on_rank_0(function: Callable[[], Result], os_error: Callable[[str], str] | None = None) -> Result:
    """Calls `function()` on rank 0 and returns its result, pickled, on every rank; fails as `on_all_ranks` does."""
    return cast(Result, broadcast_object(on_all_ranks(lambda: function() if rank() == 0 else None, os_error)))
