"""Which sessions a rank reads at which step, and the loader that builds their batches in background threads.

The epoch's order is cut into `lanes` equal parts, and a global batch takes the same number of sessions from each; a
rank reads whole lanes. So the global batch of a step is the same on any number of ranks that divides the lanes, all
ranks take the same number of steps, and every session is read once an epoch.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import Generic

from skipwise.datapipes.collate import Batch, BatchBuilder
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.session_order import SessionOrder, pad
from skipwise.datapipes.sessions import SessionStore


class StepDataset(Generic[Batch]):
    """Batches of this rank by `(epoch, step)`, from any thread."""

    def __init__(
        self,
        store: SessionStore,
        config: DataConfig,
        builder: BatchBuilder[Batch],
        rank: int,
        world_size: int,
        limit: int = 0,
    ):
        """`limit`: how many sessions of the order count (0: all); `builder` makes the batch."""
        config.check_world_size(world_size)
        self.config, self._store, self._builder = config, store, builder
        self._lanes = range(rank * config.lanes // world_size, (rank + 1) * config.lanes // world_size)
        self._per_lane = config.batch_size // config.lanes
        self._sessions = min(limit, len(store)) if limit else len(store)
        self.steps = math.ceil(math.ceil(self._sessions / config.lanes) / self._per_lane)
        self._order: tuple[int, SessionOrder] | None = None
        self._reading = Lock()

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        epoch, step = index
        with self._reading:  # the order keeps decoded windows
            if self._order is None or self._order[0] != epoch:
                order = SessionOrder(
                    self._store, self._builder.seed, epoch, self.config.shuffle_groups, len(self._lanes) + 1
                )
                self._order = epoch, order
            lanes = []
            for lane in self._lanes:
                start, end = (number * self._sessions // self.config.lanes for number in (lane, lane + 1))
                first = min(start + step * self._per_lane, end)
                lanes.append(self._order[1].take(first, min(first + self._per_lane, end)))
        return self._builder.build(pad(lanes, self._per_lane), epoch, step)


class StepLoader(Generic[Batch]):
    """Iterates a `StepDataset` over the steps of one epoch, from any step on.

    Its workers are threads: NumPy releases the interpreter lock, and sending a batch from another process costs more
    than building it.
    """

    def __init__(
        self,
        dataset: StepDataset[Batch],
        pin_memory: bool = False,
        fit: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None,
    ):
        """`pin_memory`: for copies to a GPU; `fit`: what the batches of an epoch go through."""
        self.dataset, self.steps, self._pin_memory, self._fit = dataset, dataset.steps, pin_memory, fit

    def epoch(
        self,
        epoch: int,
        first_step: int = 0,
        watched: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None,
    ) -> Iterator[Batch]:
        """Yields the batches of `epoch` from `first_step` on; `watched`: what they go through before `fit`, in which a
        rank may wait for the others."""
        batches = self._built(epoch, first_step)
        batches = batches if watched is None else watched(batches)
        return batches if self._fit is None else self._fit(batches)

    def _built(self, epoch: int, first_step: int) -> Iterator[Batch]:
        steps = iter(range(first_step, self.steps))
        workers = self.dataset.config.workers
        if not workers:
            for step in steps:
                yield self._batch(epoch, step)
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="batches") as threads:
            ahead = deque(
                threads.submit(self._batch, epoch, step)
                for step in islice(steps, workers * self.dataset.config.prefetch)
            )
            try:
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(threads.submit(self._batch, epoch, step) for step in islice(steps, 1))
                    yield batch
            finally:
                for future in ahead:
                    future.cancel()

    def _batch(self, epoch: int, step: int) -> Batch:
        batch = self.dataset[epoch, step]
        return batch.pin_memory() if self._pin_memory else batch
