"""A process that sees no GPU, for what a test compares a GPU's results with."""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from skipwise.common.distributed import device, process_group


@contextmanager
def process_without_card() -> Iterator[Callable[..., Any]]:
    """Yields `begin(function, *arguments)`, which returns a function that waits for what that one returns there, in a
    gloo group of one rank.

    `function` reaches the process by its name: it stands at the top of its module.
    """
    if torch.cuda.is_available():
        torch.cuda.init()  # what is hidden below must not be hidden from this process
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        try:
            ready = pool.submit(_call, pickle.dumps((_start, ())))
        finally:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before

        def begin(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
            # Pickled here and there: a tensor sent as it is would be memory that the processes share.
            under_way = pool.submit(_call, pickle.dumps((function, arguments)))
            return lambda: (ready.result(), pickle.loads(under_way.result()))[1]

        yield begin


def _start() -> None:
    assert device().type == "cpu", "the process sees a card"
    torch.set_num_threads(min(torch.get_num_threads(), 4))


def _call(call: bytes) -> bytes:
    function, arguments = pickle.loads(call)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    with process_group():
        return pickle.dumps(function(*arguments))
