"""The parts of a running service: the exports, the threads that ask them, and the looks for newer ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

from skipwise.components.serve import ServeConfig
from skipwise.retrieval.serve.answers import RecommendQuestion, SimilarQuestion, Slots, neighbours, recommendations
from skipwise.retrieval.serve.batching import Batcher, BatchLimits
from skipwise.retrieval.serve.hot_swap import Slot
from skipwise.retrieval.serve.prometheus import Metrics


class Service:
    """Opens the exports; raises `UserError` where one cannot be served. Answers while `running`."""

    def __init__(self, config: ServeConfig):
        self.config, self.metrics = config, Metrics()
        places = {"main": config.export} | ({"compare": config.compare} if config.compare else {})
        self.slots: Slots = {name: Slot(name, path, config.search, self.metrics) for name, path in places.items()}
        limits = BatchLimits(config.max_batch, config.max_wait_ms / 1000, config.max_queue)
        self.recommend: Batcher[RecommendQuestion] = self._batcher("recommend", recommendations, limits)
        self.similar: Batcher[SimilarQuestion] = self._batcher("similar", neighbours, limits)
        self._looks = asyncio.Lock()

    def _batcher(self, kind: str, work: Any, limits: BatchLimits) -> Batcher:
        size, depth = (metric.labels(kind) for metric in (self.metrics.batch_size, self.metrics.queue_depth))
        return Batcher(partial(work, self.slots), limits, size, depth)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers questions and looks for newer exports until the block ends."""
        tasks = [asyncio.create_task(part) for part in (self.recommend.run(), self.similar.run(), self._look())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self, changed_only: bool = False) -> None:
        """Opens the exports again, in a thread of its own; with `changed_only`, those that have a newer one."""
        async with self._looks:
            for slot in self.slots.values():
                if not changed_only or await asyncio.to_thread(slot.look):
                    await asyncio.to_thread(slot.reload)

    async def _look(self) -> None:
        while self.config.reload_s:
            await asyncio.sleep(self.config.reload_s)
            await self.reload(changed_only=True)

    def about(self) -> dict[str, Any]:
        """What the exports in service are, and whether there is a report."""
        exports = {name: slot.current.about() for name, slot in self.slots.items()}
        return dict.fromkeys(("main", "compare")) | exports | {"report": self.config.report is not None}

    def health(self) -> dict[str, Any]:
        """Which exports are in service, since when, and why a newer one is not."""
        exports = {
            name: slot.current.identity()
            | {"path": slot.current.name, "since": _text(slot.current.since), "reload_error": slot.error}
            for name, slot in self.slots.items()
        }
        return {"status": "ok", "exports": dict.fromkeys(("main", "compare")) | exports}


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
