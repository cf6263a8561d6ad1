"""The parts of a running service: the exports, the threads that ask them, and the checks for newer ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from skipwise.retrieval.serve.answers import Exports, neighbours, recommendations
from skipwise.retrieval.serve.batching import Batcher
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.http_schema import RecommendRequest, SimilarRequest
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.serve.served_export import HotSwap


class Service:
    """Opens the exports; raises `UserError` where one cannot be served. Answers while `running`."""

    def __init__(self, config: ServeConfig):
        self.config, self.metrics = config, Metrics()
        paths = {"main": config.export} | ({"compare": config.compare} if config.compare else {})
        self.exports: Exports = {name: HotSwap(name, path, config.search, self.metrics) for name, path in paths.items()}
        self.recommend: Batcher[RecommendRequest] = self._batcher("recommend", recommendations)
        self.similar: Batcher[SimilarRequest] = self._batcher("similar", neighbours)
        self._reloading = asyncio.Lock()

    def _batcher(self, kind: str, answer: Any) -> Batcher[Any]:
        size, depth = self.metrics.batch_size.labels(kind), self.metrics.queue_depth.labels(kind)
        return Batcher(partial(answer, self.exports), self.config, size, depth)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers requests and checks for newer exports until the block ends."""
        tasks = [asyncio.create_task(part) for part in (self.recommend.run(), self.similar.run(), self._watch())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self, changed_only: bool = False) -> None:
        """Opens the exports again, in a thread of its own; with `changed_only`, those that have a newer one."""
        async with self._reloading:
            for export in self.exports.values():
                if not changed_only or await asyncio.to_thread(export.changed):
                    await asyncio.to_thread(export.reload)

    async def _watch(self) -> None:
        while self.config.reload_s:
            await asyncio.sleep(self.config.reload_s)
            await self.reload(changed_only=True)

    def about(self) -> dict[str, Any]:
        """The exports in service, and whether there is a report."""
        exports = {name: export.current.about() for name, export in self.exports.items()}
        return dict.fromkeys(("main", "compare")) | exports | {"report": self.config.report is not None}

    def health(self) -> dict[str, Any]:
        """Which exports are in service, since when, and why a newer one is not."""
        exports = {name: export.health() for name, export in self.exports.items()}
        return {"status": "ok", "exports": dict.fromkeys(("main", "compare")) | exports}
