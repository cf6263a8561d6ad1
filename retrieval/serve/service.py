"""The parts of a running service: the exports, the threads that ask them, and the checks for newer ones."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from skipwise.common.distributed import logger
from skipwise.common.errors import UserError
from skipwise.retrieval.serve.answers import Exports, neighbours, recommendations
from skipwise.retrieval.serve.api_keys import ApiKeys
from skipwise.retrieval.serve.batching import Batcher
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.http_schema import RecommendRequest, SimilarRequest
from skipwise.retrieval.serve.live_rows import Gate, LiveRows
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.serve.served_export import HotSwap

_MOST_WAIT_S = 60.0
"""Between two checks for a newer export, after many that failed."""
_RESTART_S = 1.0


class Service:
    """Opens the exports; raises `UserError` where one cannot be served. Answers while `running`."""

    def __init__(self, config: ServeConfig):
        self.config, self.metrics, self.keys = config, Metrics(), ApiKeys(config.api_keys)
        self.draining = False
        """Whether the service is about to end, and answers only those who have not noticed."""
        paths = {"main": config.export} | ({"compare": config.compare} if config.compare else {})
        self._gate = Gate()
        choice = config.tracks, config.filter
        live = LiveRows(config.deltas, "main", self._gate, self.metrics, *choice) if config.deltas else None
        self.exports: Exports = {
            name: HotSwap(name, path, config.search, self.metrics, *choice, live if name == "main" else None)
            for name, path in paths.items()
        }
        self.recommend: Batcher[RecommendRequest] = self._batcher("recommend", recommendations)
        self.similar: Batcher[SimilarRequest] = self._batcher("similar", neighbours)
        self._reloading = asyncio.Lock()

    def _batcher(self, kind: str, answer: Any) -> Batcher[Any]:
        size, depth = self.metrics.batch_size.labels(kind), self.metrics.queue_depth.labels(kind)
        return Batcher(partial(self._answers, answer), self.config, size, depth)

    def _answers(self, answer: Any, requests: Any) -> Any:
        """Of one version of the rows: no delta is written meanwhile."""
        with self._gate.reading():
            return answer(self.exports, requests)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers requests and checks for newer exports until the block ends."""
        parts: list[Callable[[], Awaitable[None]]] = [self.recommend.run, self.similar.run]
        parts += [partial(self._watch, export) for export in self.exports.values()]
        tasks = [asyncio.create_task(_kept_running(part)) for part in parts]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self) -> None:
        """Reads the keys and opens the exports again, these in a thread of its own."""
        try:
            self.keys.read_again()
        except UserError as error:
            logger.error(f"skipwise: the former keys stay valid: {error}")
        for export in self.exports.values():
            await self._check(export, changed_only=False)

    async def _check(self, export: HotSwap, changed_only: bool = True) -> None:
        """Whatever fails, memory or a thread too, is for /health to say: the next check may succeed."""
        async with self._reloading:
            try:
                if not changed_only or await asyncio.to_thread(export.changed):
                    await asyncio.to_thread(export.reload)
                await asyncio.to_thread(export.refresh)
                export.checked()
            except Exception as error:
                export.checked(error)

    async def _watch(self, export: HotSwap) -> None:
        wait_s = self.config.reload_s
        while wait_s:
            await asyncio.sleep(wait_s)
            await self._check(export)
            wait_s = self.config.reload_s
            if export.failures:
                wait_s *= min(2**export.failures, max(1, _MOST_WAIT_S / wait_s))

    def about(self) -> dict[str, Any]:
        """The exports in service, and whether there is a report."""
        exports = {name: export.current.about() for name, export in self.exports.items()}
        return dict.fromkeys(("main", "compare")) | exports | {"report": self.config.report is not None}

    def health(self) -> dict[str, Any]:
        """Which exports are in service, since when, and why a newer one is not."""
        exports = {name: export.health() for name, export in self.exports.items()}
        return {"status": "ok", "exports": dict.fromkeys(("main", "compare")) | exports}


async def _kept_running(run: Callable[[], Awaitable[None]]) -> None:
    """Runs it again where it fails: nobody else would notice, and requests would wait without end."""
    while True:
        try:
            return await run()
        except Exception:
            logger.exception("skipwise: a part of the service failed, and is started again")
            await asyncio.sleep(_RESTART_S)
