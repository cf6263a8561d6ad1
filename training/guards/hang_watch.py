"""Finds and names a rank that hangs, and ends the job instead of waiting without a limit.

Collectives keep ranks in step: where one hangs, all others block inside them, where no Python signal handler runs. So
each rank has a thread that publishes how far its main thread has come, in the launcher's store. Clocks of machines are
never compared: a thread counts its own turns, so that a job that was suspended as a whole and continues is not taken
for hung.
"""

import itertools
import json
import math
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from skipwise.common.distributed import broadcast_object, rank, world_size
from skipwise.common.failure import record

Batch = TypeVar("Batch")

_SILENT_TURNS = 4
"""Turns without a sign of life after which a process counts as stopped or gone."""
_VERDICT = "verdict"
_NAMED = 4
"""The most hung ranks that the sentence names one by one."""


@dataclass(frozen=True)
class Sight:
    """How far a rank reports to have come."""

    count: int = -1
    """Calls of `HangWatch.heartbeat`."""
    place: str = "it was started"
    """The last one's."""
    still_s: float = 0.0
    """How long ago that was, by the rank's own turns."""
    host: str = "unknown"
    process: int = 0
    turn: int = 0
    """Grows as long as the process runs, whatever its main loop does."""
    left: bool = False
    """It has left its `HangWatch`: no rank waits for it."""


class HangWatch:
    """`with HangWatch(limit_s) as watch:` around collectives, entered by all ranks. One rank alone is not watched.

    Once no rank has moved for `limit_s`, one of them prints a sentence that names the rank all wait for, and every
    process ends with code 1, for the launcher to start them anew.
    """

    def __init__(self, limit_s: float):
        """`limit_s`: 0 watches nothing."""
        self._limit_s = limit_s
        self._turn_s = min(limit_s / 10, 5.0)
        self._now: tuple[int, str, tuple[object, ...]] = 0, "the start", ()
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None
        self._store_answers = False  # as the thread has found when it left
        self._turn, self._still, self._count = 0, 0, 0
        self._sights: dict[int, Sight] = {}
        self._silent: dict[int, int] = {}  # turns since each other rank's last sign of life

    def heartbeat(self, place: str, *numbers: object) -> None:
        """The main thread is at `place`, formatted with `numbers`: `heartbeat("training epoch {}, step {}", 3, 41)`.

        Call it before each piece of a rank's own work and again before the collective in which it waits for the
        others, equally often on every rank: the rank that hangs is the one that has called it less often. It takes
        less than a microsecond, formats nothing and reads no clock.
        """
        self._now = self._now[0] + 1, place, numbers

    def batches(self, batches: Iterator[Batch], place: str, before: int = 0) -> Iterator[Batch]:
        """Passes on `batches`, numbered from `before` + 1, with a heartbeat before and after it waits for each.

        `place` has a {} for the number.
        """
        for number in itertools.count(before + 1):
            self.heartbeat(f"waiting for data, {place}", number)
            batch = next(batches, None)
            self.heartbeat(place, number)
            if batch is None:
                return
            yield batch

    def __enter__(self) -> "HangWatch":
        if world_size() == 1 or not self._limit_s:
            return self
        # A name of its own: the store outlives a watch, and under some launchers the ranks' restart.
        name = broadcast_object(uuid.uuid4().hex)
        # A connection of its own: the main thread's is held for as long as it waits for something in the store.
        own_connection = _get_default_store().clone()  # type: ignore[attr-defined]
        self._store = dist.PrefixStore(f"watch/{name}", own_connection)  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=max(self._limit_s, 1)))
        self._publish()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._thread is None:
            return
        self._leaving.set()
        self._thread.join(self._turn_s + 1)
        if not self._store_answers:
            return
        with suppress(RuntimeError):  # of a store that has gone
            # What the first rank to end does to the collectives of the others is not the failure to show.
            if isinstance(error, Exception):
                self._end_on_verdict()
            self._publish()

    def _run(self) -> None:
        """Returns when the launcher ends, and its store with it: the main thread fails by itself."""
        launcher = os.getppid()
        with suppress(RuntimeError):
            while not self._leaving.wait(self._turn_s):
                # Asked first, since torch prints a stack for every message to a store that is gone.
                if os.getppid() != launcher:
                    return
                self._take_turn()
            self._store_answers = True

    def _take_turn(self) -> None:
        count = self._now[0]
        self._still = self._still + 1 if count == self._count else 0
        self._count, self._turn = count, self._turn + 1
        self._publish()
        if self._still * self._turn_s < self._limit_s / 2:
            self._sights, self._silent = {}, {}
            return
        self._end_on_verdict()
        for other in range(world_size()):
            before = self._sights.get(other, Sight())
            heard = self._store.check([str(other)])
            seen = Sight(**json.loads(self._store.get(str(other)))) if heard else before
            self._silent[other] = self._silent.get(other, 0) + 1 if seen.turn == before.turn else 0
            self._sights[other] = seen
        silent = {other for other, turns in self._silent.items() if turns >= _SILENT_TURNS}
        hung = find_hung(self._sights, silent, self._limit_s)
        if hung and count == self._now[0] and not self._leaving.is_set():
            # Several may find it at the same time, and one prints.
            if self._store.add("verdicts", 1) == 1:
                words = describe(hung, self._sights, silent, self._limit_s)
                self._store.set(_VERDICT, words)
                print(words, file=sys.stderr, flush=True)
            self._store.wait([_VERDICT])
            self._end_on_verdict()

    def _publish(self) -> None:
        count, place, numbers = self._now
        sight = Sight(
            count=count,
            place=place.format(*numbers) if numbers else place,
            still_s=self._still * self._turn_s,
            host=socket.gethostname(),
            process=os.getpid(),
            turn=self._turn,
            left=self._leaving.is_set(),
        )
        self._store.set(str(rank()), json.dumps(asdict(sight)))

    def _end_on_verdict(self) -> None:
        """Ends this process, once there is a verdict, from any thread: a collective may never return."""
        if not self._store.check([_VERDICT]):
            return
        record(self._store.get(_VERDICT).decode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def find_hung(sights: dict[int, Sight], silent: set[int], limit_s: float) -> list[int]:
    """The ranks that all others wait for; none while any may still move.

    Those are the ranks without a sign of life, or else those that have come least far, which may be all.
    """
    present = {other: sight for other, sight in sights.items() if not sight.left}
    if any(sight.still_s < limit_s for other, sight in present.items() if other not in silent):
        return []
    stopped = [other for other in present if other in silent]
    fewest = min((sight.count for sight in present.values()), default=0)
    return stopped or [other for other, sight in present.items() if sight.count == fewest]


def describe(hung: list[int], sights: dict[int, Sight], silent: set[int], limit_s: float) -> str:
    """One sentence: which rank hangs, since which place, and what to do."""
    first = sights[hung[0]]
    limit = f"{math.ceil(limit_s)} s"
    restart = "the job restarts from its last checkpoint where --max_retries allows it"
    waiting = [other for other, sight in sights.items() if not sight.left and other not in hung]
    if len(hung) > 1 and not waiting and not silent.intersection(hung):
        return (
            f"skipwise: no rank has moved for {limit}, all {len(hung)} since {first.place}: see whether their network "
            f"and their devices work; {restart}"
        )
    names = ", ".join(
        f"rank {other} (host {sights[other].host}, process {sights[other].process})" for other in hung[:_NAMED]
    )
    if len(hung) > _NAMED:
        names += f" and {len(hung) - _NAMED} more"
    have = "have" if len(hung) > 1 else "has"
    # The last report of a silent rank may be a turn older than what it did last.
    moved = "shown no sign of life since about" if hung[0] in silent else "not moved since"
    wait = f", and all others have waited for {limit}" if waiting else f", {limit} ago"
    return (
        f"skipwise: {names} {have} {moved} {first.place}{wait}: see what that process or its machine is "
        f"doing; {restart}"
    )
