"""Concurrent requests, answered together by one thread.

The first request of a batch waits a little for others; while one batch is worked on, the next one gathers.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prometheus_client import Gauge, Histogram

Question = TypeVar("Question")
Answer = dict[str, Any]
Work = Callable[[Sequence[Question]], list[Answer | Exception]]


class Overloaded(Exception):
    """As many requests wait as may."""


@dataclass(frozen=True)
class BatchLimits:
    """How much is gathered, and for how long."""

    most: int
    """Requests of a batch."""
    wait_s: float
    """Seconds that the first of a batch waits for others."""
    queue: int
    """Requests that wait."""


class Batcher(Generic[Question]):
    """Hands batches of questions to `work`, which gives an answer or an exception for each, in their order."""

    def __init__(self, work: Work, limits: BatchLimits, size: Histogram, depth: Gauge):
        self._work, self._limits, self._size = work, limits, size
        self._queue: asyncio.Queue[tuple[float, Question, asyncio.Future]] = asyncio.Queue(limits.queue)
        depth.set_function(self._queue.qsize)

    async def ask(self, question: Question) -> Answer:
        """The answer, or the exception that `work` gave or raised. Raises `Overloaded` where too many wait."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        try:
            self._queue.put_nowait((loop.time(), question, future))
        except asyncio.QueueFull:
            raise Overloaded from None
        return await future

    async def run(self) -> None:
        """Answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while True:
                batch = [(question, future) for _, question, future in await self._gather() if not future.done()]
                if not batch:
                    continue
                self._size.observe(len(batch))
                try:
                    answers = await loop.run_in_executor(thread, self._answers, [question for question, _ in batch])
                except Exception as error:  # no thread to be had, say: the next batch may fare better
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():  # its client has gone
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)

    async def _gather(self) -> list[tuple[float, Question, asyncio.Future]]:
        batch = [await self._queue.get()]
        until = batch[0][0] + self._limits.wait_s
        while len(batch) < self._limits.most:
            try:
                batch.append(self._queue.get_nowait())
                continue
            except asyncio.QueueEmpty:
                pass
            try:
                async with asyncio.timeout_at(until):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch

    def _answers(self, questions: list[Question]) -> list[Answer | Exception]:
        """Where the work on all fails, each question alone, so that one cannot fail its neighbours."""
        try:
            return self._work(questions)
        except Exception as error:
            if len(questions) == 1:
                return [error]
        return [self._answers([question])[0] for question in questions]
