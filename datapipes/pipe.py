"""Which sessions a rank reads at which step, and the loader that prepares their batches off the critical path.

The epoch's order is cut into `lanes` equal stretches, and a global batch takes the same number of sessions from each;
a rank serves whole lanes. So the global batch of a step is the same on any number of ranks that divides the lanes,
all ranks take the same number of steps, and every session comes once an epoch.
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Literal

from datapipes.batch import EvaluationBatch, SessionBatch
from datapipes.collate import BatchBuilder
from datapipes.errors import UserError
from datapipes.sessions import SessionOrder, SessionStore, pad


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how a batch is made of it."""

    path: str = "data/sample"
    """Dataset directory, as `prepare` writes it."""
    batch_size: int = 128
    """Sessions of one global batch, over all ranks."""
    negatives: int = 1000
    """Uniform tracks the softmax compares the target with; 0 needs `loss.in_batch`."""
    sampling: Literal["shared", "per-session"] = "shared"
    """One pool of negatives a batch (collisions masked), or one a session (the paper's text)."""
    skip_up_to: Literal[1, 2, 3] = 2
    """Skip strengths 1 up to this count as skipped: 1 very briefly, 2 briefly, 3 mostly played."""
    skip_flags: Literal["recorded", "shuffled"] = "recorded"
    """`shuffled`: training's skip flags change places within each session (control: what is learned must vanish)."""
    skipped_tracks: Literal["read", "filter"] = "read"
    """`filter`: skipped tracks are taken out of every input, and of training's targets, as if never played."""
    skip_negatives: Literal["own", "other"] = "own"
    """Whose skipped tracks the InfoNCE pushes away: the session's, or those of another one of the batch."""
    lanes: int = 16
    """Stretches of the epoch's order that are read side by side; ranks must divide it, and it the batch size."""
    shuffle_groups: int = 8
    """Row groups (4096 sessions each) whose sessions are mixed with one another."""
    workers: int = 1
    """Threads a rank keeps for reading and drawing; 0 does it between two steps."""
    prefetch: int = 4
    """Batches each worker prepares ahead."""

    def __post_init__(self) -> None:
        for name, most in (("batch_size", 1 << 20), ("lanes", 1 << 20), ("prefetch", 1 << 16)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"--data.{name.replace('_', '-')} {getattr(self, name)} must lie in 1..{most}")
        if self.shuffle_groups < 1:
            raise ValueError("--data.shuffle-groups must be at least 1")
        if self.negatives < 0:
            raise ValueError("--data.negatives must not be negative")
        if not 0 <= self.workers <= 1024:
            raise ValueError(f"--data.workers {self.workers} must lie in 0..1024")
        if self.batch_size % self.lanes:
            raise ValueError(
                f"--data.batch-size {self.batch_size} must be a multiple of --data.lanes {self.lanes}: change either"
            )
        if self.skip_negatives == "other" and self.batch_size == self.lanes:
            raise ValueError("--data.skip-negatives other needs a --data.batch-size above --data.lanes: change either")

    @property
    def borrow_from(self) -> int:
        """Sessions of a group in which each borrows the next one's skips: a lane's, so that ranks change nothing."""
        return self.batch_size // self.lanes if self.skip_negatives == "other" else 0

    def check_ranks(self, ranks: int) -> None:
        """Raises `UserError` for a number of ranks that cannot serve whole lanes."""
        if self.lanes % ranks:
            raise UserError(f"{ranks} ranks do not divide --data.lanes {self.lanes}: change either")


class StepDataset:
    """Batches of this rank by `(epoch, step)`, from any thread."""

    def __init__(
        self, store: SessionStore, config: DataConfig, builder: BatchBuilder, rank: int, ranks: int, limit: int = 0
    ):
        """`limit`: how many sessions of the order count (0: all); `builder` makes the batch."""
        config.check_ranks(ranks)
        self.config, self._store, self._builder = config, store, builder
        self._lanes = range(rank * config.lanes // ranks, (rank + 1) * config.lanes // ranks)
        self._per_lane = config.batch_size // config.lanes
        self._sessions = min(limit, len(store)) if limit else len(store)
        self.steps = math.ceil(math.ceil(self._sessions / config.lanes) / self._per_lane)
        self._order: tuple[int, SessionOrder] | None = None
        self._reading = Lock()

    def __getitem__(self, index: tuple[int, int]) -> SessionBatch | EvaluationBatch:
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


class StepLoader:
    """Iterates a `StepDataset` over the steps of one epoch, from any step on.

    Its workers are threads: building is NumPy's work, which leaves the interpreter free, and a batch handed over from
    another process costs more than it does to build.
    """

    def __init__(self, dataset: StepDataset, pin_memory: bool = False):
        """`pin_memory`: for copies to a GPU."""
        self.dataset, self.steps, self._pin_memory = dataset, dataset.steps, pin_memory

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[SessionBatch | EvaluationBatch]:
        """The batches of `epoch` from `first_step` on."""
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

    def _batch(self, epoch: int, step: int) -> SessionBatch | EvaluationBatch:
        batch = self.dataset[epoch, step]
        return batch.pin_memory() if self._pin_memory else batch
