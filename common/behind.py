"""Calls that run in a thread while the program goes on, one after the other."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def behind() -> Iterator[Callable[..., None]]:
    """Yields a function that has `call(*given)` done behind the program, in order; at most one call is pending.

    What a call raises is raised by the next one, or at the end, when all are done.
    """
    with ThreadPoolExecutor(1) as pool:
        pending: Future[Any] | None = None

        def run(call: Callable[..., Any], *given: Any) -> None:
            nonlocal pending
            if pending is not None:
                pending.result()
            pending = pool.submit(call, *given)

        yield run
        if pending is not None:
            pending.result()
