"""What all ranks do between two steps: go on, write a checkpoint, stop for SIGTERM, or end for a failure.

What one rank requests (by a signal, the clock, a failed write, a number that is not finite) all must do at the same
step. The requests are reduced while the next step is computed, so that no step waits for them.
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
    """What to do now; of several requests, the highest."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class Stopped(SystemExit):
    """SIGTERM: the state is saved, and the command ends with exit code 0."""


class StopSignal:
    """A context in which SIGTERM does not end the process but requests a stop, which follows at the next step."""

    def __init__(self, minutes: float):
        """`minutes` after which rank 0 requests a checkpoint; 0 never."""
        self._seconds = 60 * minutes
        self._terminated = False
        self._in_flight: tuple[dist.Work, torch.Tensor] | None = None
        self.restart_clock()

    def __enter__(self) -> "StopSignal":
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)
        if error[0] is None and self._in_flight:
            self._in_flight[0].wait()

    def restart_clock(self) -> None:
        """Counts the minutes to the next checkpoint from now on."""
        self._due = time.monotonic() + self._seconds

    def sync_action(self, failed: bool = False) -> Action:
        """What all ranks do now; every rank calls it at the same places. `failed`: this rank cannot go on."""
        requested = self._request(failed)
        if world_size() == 1:
            return requested
        agreed = Action.GO_ON
        if self._in_flight:
            work, highest = self._in_flight
            work.wait()
            agreed = Action(int(highest))
        highest = torch.tensor(int(requested))
        self._in_flight = dist.all_reduce(highest, dist.ReduceOp.MAX, side_group("control"), async_op=True), highest
        return agreed

    def _request(self, failed: bool) -> Action:
        if failed:
            return Action.FAIL
        if self._terminated:
            return Action.STOP
        if rank() == 0 and self._seconds and time.monotonic() >= self._due:
            self.restart_clock()
            return Action.SAVE
        return Action.GO_ON

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
