"""Deltas, applied to the export in service without opening it again.

Requests read the table between two deltas, never while one is written: each answer is of one version.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from skipwise.common.distributed import logger
from skipwise.common.errors import UserError
from skipwise.retrieval.live_export import LiveExport
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.track_columns import TrackColumns
from skipwise.retrieval.recommend.track_filter import TrackFilter
from skipwise.retrieval.row_delta import Deltas
from skipwise.retrieval.search.grown import search_of
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.serve.served_export import Broken, ServedExport


class Gate:
    """Many may read together; who writes waits until nobody reads, and keeps others out meanwhile."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._readers, self._writes = 0, False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Waits while somebody writes."""
        with self._free:
            self._free.wait_for(lambda: not self._writes)
            self._readers += 1
        try:
            yield
        finally:
            with self._free:
                self._readers -= 1
                self._free.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Waits while anybody reads."""
        with self._free:
            self._free.wait_for(lambda: not self._writes)
            self._writes = True
            self._free.wait_for(lambda: not self._readers)
        try:
            yield
        finally:
            with self._free:
                self._writes = False
                self._free.notify_all()


class LiveRows:
    """The deltas of a folder and the export that they have been applied to. One thread at a time calls it."""

    def __init__(
        self,
        folder: str,
        name: str,
        gate: Gate,
        metrics: Metrics,
        tracks: Path | None = None,
        always: TrackFilter = (),
    ):
        """`name`: of the export; `tracks`, `always`: of `TrackColumns`."""
        self._deltas, self._name, self._gate, self._metrics = Deltas(folder), name, gate, metrics
        self._tracks, self._always = tracks, always
        self._live: LiveExport | None = None
        self.error: str | None = None
        """Why a delta is not applied, or None."""
        self._refused: str | None = None
        """The hash of a delta that does not fit the export: opening that again would not help."""
        metrics.delta_failures.labels(name)

    def begin(self, served: ServedExport) -> ServedExport:
        """Takes an export that is not in service yet, and returns it with all deltas that are there."""
        live = LiveExport(served.opened)
        served = self._with(served, live.opened, live.applied.number)
        self.error = self._refused = None
        try:
            if not self._deltas.look(live.applied.number) or self._deltas.first() is None:
                logger.warning(
                    f"skipwise: --deltas {self._deltas.folder} has no delta yet: the rows are those of "
                    f"{served.opened.path}"
                )
            now, oldest = self._deltas.hash(live.applied.number), self._deltas.first()
            if now not in (None, live.applied.hash):
                self._refused = now
                raise UserError(
                    f"delta {live.applied.number} of {self._deltas.folder} is not the one that {served.opened.path} "
                    "has: export the run that follows, and serve that"
                )
            if oldest is not None and oldest > live.applied.number + 1:
                raise UserError(
                    f"{self._deltas.folder} begins with delta {oldest}, and {served.opened.path} has those up to "
                    f"{live.applied.number}: export the run that follows, and serve that"
                )
            while served_next := self._next(live, served):
                served = served_next
        except UserError as error:
            self.failed(error)
        self._live = live
        return served

    def newer(self, served: ServedExport) -> Iterator[ServedExport]:
        """Yields the export in service with one delta more, for each that is there; nobody reads the table meanwhile.

        Raises `Broken` where the deltas are no longer those that were applied.
        """
        live = self._live
        assert live is not None
        if not self._deltas.look(live.applied.number):
            return
        now = self._deltas.hash(live.applied.number)
        if now not in (None, live.applied.hash):
            if now == self._refused:
                return
            raise Broken(f"the deltas of {self._deltas.folder} are others than those that were applied")
        while delta := self._deltas.read(live.applied.number + 1):
            if delta.hash == self._refused:
                return
            if not live.follows(delta):
                raise Broken(f"the deltas of {self._deltas.folder} are others than those that were applied")
            change = live.prepare(delta)
            served = self._with(served, change.opened, delta.manifest.number)
            with self._gate.writing():
                live.commit(change)
                served.recommender.changed(delta.rows_X)
                yield served
            served.recommender.set_up()  # again, where the rows have left the range of its codes
            self._count(live)
        self.error = None

    def _next(self, live: LiveExport, served: ServedExport) -> ServedExport | None:
        delta = self._deltas.read(live.applied.number + 1)
        if delta is None:
            return None
        if not live.follows(delta):
            self._refused = delta.hash
            raise UserError(
                f"delta {delta.manifest.number} of {self._deltas.folder} does not follow what {served.opened.path} "
                "has: wait for the run to write it again, or export the run"
            )
        live.commit(live.prepare(delta))
        self._count(live)
        served = self._with(served, live.opened, delta.manifest.number)
        served.recommender.changed(delta.rows_X)
        return served

    def _with(self, served: ServedExport, opened: OpenExport, number: int) -> ServedExport:
        search = search_of(served.search, opened.vectors, opened.manifest.rows)
        columns = served.recommender.columns
        if opened.tracks is not served.opened.tracks:
            columns = TrackColumns(opened.tracks, self._tracks, self._always)
        recommender = served.recommender.over(opened, search, columns)
        return replace(served, opened=opened, search=search, recommender=recommender, delta=number)

    def _count(self, live: LiveExport) -> None:
        applied = live.applied
        self._metrics.delta.labels(self._name).set(applied.number)
        self._metrics.delta_lag.labels(self._name).set(max(time.time() - applied.heard_until, 0.0))

    def failed(self, error: UserError) -> None:
        """Notes why a delta is not applied; logs it once."""
        if self.error != str(error):
            self.error = str(error)
            self._metrics.delta_failures.labels(self._name).inc()
            logger.error(f"skipwise: still serving the rows of before, because a delta is refused: {error}")
