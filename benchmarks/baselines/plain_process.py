"""The plain baseline in a process of its own, so that nothing this project sets for a process changes it."""

import itertools
import multiprocessing
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch

from skipwise.benchmarks.baselines.plain_model import Plain, PlainStep
from skipwise.benchmarks.harness.batches import plain_batches
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.benchmarks.harness.timing import peak_bytes, synchronize
from skipwise.common.distributed import device
from skipwise.training.config import RunConfig


class PlainProcess:
    """Takes one step at a time, on request; sleeps in between."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe

    def step(self) -> None:
        """One training step; returns once it is done."""
        self._pipe.send("step")
        self._answer()

    def peak_bytes(self) -> int:
        """The most memory it has held."""
        self._pipe.send("peak")
        return self._answer()

    def _answer(self) -> int:
        answer: int | str = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"the plain baseline failed:\n{answer}")
        return answer


@contextmanager
def plain_process(config: RunConfig, store: MemoryStore, threads: int) -> Iterator[PlainProcess]:
    """Starts the process on `threads` threads and ends it; it is ready when this yields."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, config, store, threads), daemon=True)
    process.start()
    theirs.close()  # so that the end of the child closes the pipe
    try:
        plain = PlainProcess(mine)
        plain._answer()
        yield plain
    finally:
        mine.close()
        process.join(timeout=10)
        process.kill()


def _serve(pipe: Connection, config: RunConfig, store: MemoryStore, threads: int) -> None:
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(config.train.seed)
        step, batches = PlainStep(Plain(config, store.num_tracks).to(device()), config), plain_batches(config, store)
        cycle = itertools.cycle(batches)
        answer = 0
        while True:
            pipe.send(answer)
            try:
                wanted = pipe.recv()
            except EOFError:
                return
            if wanted == "step":
                step(next(cycle))
                synchronize()
                answer = 0
            else:
                answer = peak_bytes()
    except Exception:
        pipe.send(traceback.format_exc())
