"""The plain baseline in a process of its own, so that nothing this project sets for a process changes it."""

import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from skipwise.benchmarks.baselines.plain_model import Plain, PlainStep
from skipwise.benchmarks.harness.batches import plain_batches
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.benchmarks.harness.timing import synchronize
from skipwise.common.distributed import device
from skipwise.training.config import RunConfig

_steps: Iterator[torch.Tensor]
"""In the process: each `next` is a training step."""


@contextmanager
def plain_process(config: RunConfig, store: MemoryStore, threads: int) -> Iterator[Callable[..., Any]]:
    """Starts the process on `threads` threads and yields how to call a function in it, such as `take_step`."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            return pool.submit(function, *arguments).result()

        call(_start, config, store, threads)
        yield call


def take_step() -> None:
    """One training step; returns once the device has done it."""
    next(_steps)
    synchronize()


def _start(config: RunConfig, store: MemoryStore, threads: int) -> None:
    global _steps
    torch.set_num_threads(threads)
    torch.manual_seed(config.train.seed)
    step = PlainStep(Plain(config, store.num_tracks).to(device()), config)
    _steps = (step(batch) for batch in itertools.cycle(plain_batches(config, store)))
