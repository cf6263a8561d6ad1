"""What the ranks agree to do between two steps: go on, write a checkpoint, stop for SIGTERM, or end for a failure.

A wish of one rank (a signal, a clock, a failed write, a number gone wrong) must be met by all at the same step. Each
step's wishes travel while the next step is computed, so asking costs no wait.
"""

import signal
import threading
import time
from enum import IntEnum
from types import FrameType

import torch
import torch.distributed as dist

from skipwise.common.distributed import rank, side_group, world_size


class Action(IntEnum):
    """What to do now; of several wishes, the highest."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class Stopped(SystemExit):
    """SIGTERM: the state is saved, and the command ends with exit code 0."""


class Control:
    """A context in which SIGTERM is a wish to stop, taken at the next step, not an end."""

    def __init__(self, minutes: float):
        """`minutes` after which rank 0 wishes for a checkpoint; 0 never."""
        self._seconds = 60 * minutes
        self._terminated = False
        self._under_way: tuple[dist.Work, torch.Tensor] | None = None
        self.saved()

    def __enter__(self) -> "Control":
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)
        if error[0] is None and self._under_way:
            self._under_way[0].wait()

    def saved(self) -> None:
        """A checkpoint was begun: the clock starts again."""
        self._due = time.monotonic() + self._seconds

    def agree(self, failed: bool = False) -> Action:
        """What all ranks do now; every rank calls it at the same places. `failed`: this rank cannot go on."""
        wish = self._wish(failed)
        if world_size() == 1:
            return wish
        agreed = Action.GO_ON
        if self._under_way:
            work, wishes = self._under_way
            work.wait()
            agreed = Action(int(wishes))
        wishes = torch.tensor(int(wish))
        self._under_way = dist.all_reduce(wishes, dist.ReduceOp.MAX, side_group("control"), async_op=True), wishes
        return agreed

    def _wish(self, failed: bool) -> Action:
        if failed:
            return Action.FAIL
        if self._terminated:
            return Action.STOP
        if rank() == 0 and self._seconds and time.monotonic() >= self._due:
            self.saved()
            return Action.SAVE
        return Action.GO_ON

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
