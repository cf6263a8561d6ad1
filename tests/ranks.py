"""Real ranks on CPU for tests: forked processes that meet through a file, no ports."""

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_on_ranks(folder: Path, ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` on every rank of a gloo group; what each returned, in rank order."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    rendezvous = folder / f"rendezvous-{ranks}-{function.__name__}"
    rendezvous.unlink(missing_ok=True)
    processes = [
        context.Process(target=_rank, args=(rendezvous, rank, ranks, queue, function, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    results = dict(pickle.loads(queue.get()) for _ in processes)
    for process in processes:
        process.join()
    failures = [f"rank {rank}: {value[1]}" for rank, value in results.items() if isinstance(value, tuple)]
    assert not failures, "\n".join(failures)
    return [results[rank][0] for rank in range(ranks)]


def _rank(rendezvous: Path, rank: int, ranks: int, queue: Any, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
        result: Any = [function(*arguments)]
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        result = (None, traceback.format_exc())
    # Pickled here: a tensor sent as it is would be shared memory that goes with this process.
    queue.put(pickle.dumps((rank, result)))
