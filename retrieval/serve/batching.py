"""Concurrent requests, answered together by one thread.

The first request of a batch waits a little for others. While one batch is computed, the next one is gathered.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from prometheus_client import Gauge, Histogram

from skipwise.retrieval.serve.config import ServeConfig

Request = TypeVar("Request")
Answer = dict[str, Any]
Work = Callable[[Sequence[Request]], list[Answer | Exception]]


class Overloaded(Exception):
    """The queue of waiting requests is full."""


class Batcher(Generic[Request]):
    """Passes batches of requests to `work`, which returns an answer or an exception for each, in their order."""

    def __init__(self, work: Work[Request], config: ServeConfig, size: Histogram, depth: Gauge):
        self._work, self._config, self._size = work, config, size
        self._queue: asyncio.Queue[tuple[float, Request, asyncio.Future[Answer]]] = asyncio.Queue(config.max_queue)
        self._depth = depth

    async def ask(self, request: Request) -> Answer:
        """The answer, or the exception that `work` gave or raised. Raises `Overloaded` where the queue is full."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        try:
            self._queue.put_nowait((loop.time(), request, future))
        except asyncio.QueueFull:
            raise Overloaded from None
        self._depth.inc()
        return await future

    async def run(self) -> None:
        """Answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while True:
                gathered = await self._gather()
                self._depth.dec(len(gathered))
                batch = [(request, future) for _, request, future in gathered if not future.done()]
                if not batch:
                    continue
                self._size.observe(len(batch))
                try:
                    answers = await loop.run_in_executor(thread, self._answers, [request for request, _ in batch])
                except Exception as error:  # no thread can be started, for example: the next batch may succeed
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():  # its client has disconnected
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)

    async def _gather(self) -> list[tuple[float, Request, asyncio.Future[Answer]]]:
        batch = [await self._queue.get()]
        until = batch[0][0] + self._config.max_wait_ms / 1000
        while len(batch) < self._config.max_batch:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            try:
                async with asyncio.timeout_at(until):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch

    def _answers(self, requests: list[Request]) -> list[Answer | Exception]:
        """Where the work on the batch fails, works on each request alone, so that one cannot fail the others."""
        try:
            return self._work(requests)
        except Exception as error:
            if len(requests) == 1:
                return [error]
        return [self._answers([request])[0] for request in requests]
