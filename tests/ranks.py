"""Real ranks on CPU for tests: processes that meet through a file, no ports.

They come from a fork server that never ran a test. A fork of the test process itself takes over locks that its threads
(OpenMP's, Arrow's, torch's) hold at that moment, and waits for them for ever; and it keeps what earlier tests patched
or left behind, such as a logger on a captured stderr.
"""

import faulthandler
import multiprocessing
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LIMIT_S = 240
"""How long the ranks of one call may take."""
GRACE_S = 10
"""How long the others may still take after a rank has failed: many wait for what it can no longer send."""

CONTEXT = multiprocessing.get_context("forkserver")
# What takes long to import and starts no thread: Arrow does, so it and what needs it are left to the rank.
CONTEXT.set_forkserver_preload(
    [
        "hypothesis",
        "pytest",
        "torch.distributed.checkpoint",
        "torch.utils.tensorboard",
        "torchmetrics",
        "torchrec.distributed.train_pipeline",
    ]
)


def run_on_ranks(folder: Path, ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` on every rank of a gloo group; what each returned, in rank order.

    `function` reaches a rank by its name: it stands at the top of its module. What a test has patched does not reach
    it. Raises `AssertionError` that names each rank that raised, died or hangs after `LIMIT_S`, the first one first.
    """
    # Pickled here and in the rank: a tensor sent as it is would be memory that the ranks share.
    call = pickle.dumps((function, arguments))
    started: list[tuple[BaseProcess, Connection]] = []
    with tempfile.TemporaryDirectory(dir=folder) as meeting:
        try:
            for rank in range(ranks):
                receiver, sender = CONTEXT.Pipe(duplex=False)
                process = CONTEXT.Process(target=_rank, args=(sender, Path(meeting), rank, ranks, call))
                process.start()
                sender.close()  # the rank's is the only one now, so that its death ends what `receiver` reads
                started.append((process, receiver))
            results, failures = _collect(started, Path(meeting))
        finally:
            for process, receiver in started:
                receiver.close()
                process.kill()
                process.join()
    assert not failures, "\n".join(failures)
    return [results[rank] for rank in range(ranks)]


def _collect(started: list[tuple[BaseProcess, Connection]], meeting: Path) -> tuple[dict[int, Any], list[str]]:
    """Results by rank, and a text for each failure, once every rank has ended or is late."""
    results, failures = {}, []
    waiting = {receiver: rank for rank, (_, receiver) in enumerate(started)}
    deadline = time.monotonic() + LIMIT_S
    while waiting and (ready := wait(list(waiting), max(0.0, deadline - time.monotonic()))):
        for receiver in ready:
            rank = waiting.pop(receiver)
            try:
                results[rank], failure = pickle.loads(receiver.recv_bytes())
            except EOFError:
                process = started[rank][0]
                process.join(GRACE_S)
                failure = f"ended with exit code {process.exitcode} and without a word"
            if failure:
                failures.append(f"rank {rank}: {failure}")
                deadline = min(deadline, time.monotonic() + GRACE_S)
    for rank, (process, _) in enumerate(started):
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.terminate()
            process.join(GRACE_S)
            stack = meeting / f"stack-{rank}"
            failures.append(f"rank {rank}: hangs\n{stack.read_text() if stack.exists() else 'before it began'}")
    return results, failures


def _rank(sender: Connection, meeting: Path, rank: int, ranks: int, call: bytes) -> None:
    faulthandler.register(signal.SIGTERM, (meeting / f"stack-{rank}").open("w"), chain=True)
    torch.set_num_threads(1)
    try:
        function, arguments = pickle.loads(call)
        dist.init_process_group("gloo", init_method=f"file://{meeting}/rendezvous", rank=rank, world_size=ranks)
        result = function(*arguments)
        dist.barrier()
        dist.destroy_process_group()
        outcome = pickle.dumps((result, None))
    except BaseException:
        outcome = pickle.dumps((None, traceback.format_exc()))
    sender.send_bytes(outcome)
