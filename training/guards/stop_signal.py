"""What all ranks do between two steps: go on, publish a delta, save, stop for SIGTERM, or end for a failure.

What one rank requests (by a signal, the clock, a failed write, a number that is not finite) all must do at the same
step. The requests are reduced while the next step is computed, so that no step waits for them.
"""

import signal
import threading
import time
from enum import IntEnum
from types import FrameType

from skipwise.common.distributed import Highest, rank, world_size


class Action(IntEnum):
    """What to do now; of several requests, the highest."""

    GO_ON = 0
    PUBLISH = 1
    """What has changed, without a checkpoint; one publishes too."""
    SAVE = 2
    STOP = 3
    FAIL = 4


class Stopped(SystemExit):
    """SIGTERM: the state is saved, and the command ends with exit code 0."""


class StopSignal:
    """A context in which SIGTERM does not end the process but requests a stop, which follows at the next step."""

    def __init__(self, minutes: float, delta_minutes: float = 0.0):
        """Minutes after which rank 0 requests a checkpoint, and after which a delta; 0 never."""
        self._seconds = {Action.SAVE: 60 * minutes, Action.PUBLISH: 60 * delta_minutes}
        self._due = dict[Action, float]()
        self._terminated = False
        self._in_flight: Highest | None = None
        for action in self._seconds:
            self.restart_clock(action)

    def __enter__(self) -> "StopSignal":
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)
        if error[0] is None and self._in_flight:
            self._in_flight.wait()

    def restart_clock(self, action: Action) -> None:
        """Counts the minutes to the next checkpoint (SAVE) or delta (PUBLISH) from now on."""
        if seconds := self._seconds[action]:
            self._due[action] = time.monotonic() + seconds

    def sync_action(self, failed: bool = False) -> Action:
        """What all ranks do now; every rank calls it at the same places. `failed`: this rank cannot go on."""
        requested = self._request(failed)
        if world_size() == 1:
            return requested
        agreed = Action.GO_ON
        if self._in_flight:
            agreed = Action(self._in_flight.wait())
        self._in_flight = Highest(requested)
        return agreed

    def _request(self, failed: bool) -> Action:
        if failed:
            return Action.FAIL
        if self._terminated:
            return Action.STOP
        for action, seconds in self._seconds.items():
            if rank() == 0 and seconds and time.monotonic() >= self._due[action]:
                self.restart_clock(action)
                return action
        return Action.GO_ON

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
