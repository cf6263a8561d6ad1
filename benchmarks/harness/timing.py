"""Cases timed in turn (A B A B), so that other load on the machine affects all of them alike; and peak memory."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from skipwise.common.distributed import device, gather_rows, world_size

Case = TypeVar("Case")


@dataclass(frozen=True)
class Times:
    """Seconds of each call of one case, warm-up left out; the slowest rank's where there are several."""

    seconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        return float(np.quantile(self.seconds, 0.5))

    @property
    def p90(self) -> float:
        return float(np.quantile(self.seconds, 0.9))


def alternate(
    cases: Mapping[Case, Callable[[], object]], rounds: int, warmup: int, calls: int = 1
) -> dict[Case, Times]:
    """Runs every case in turn, `rounds` times, after `warmup` rounds that are not counted.

    `calls`: times a case runs in one turn, each timed by itself. More than one lets a case find its own data in the
    caches again, as it would when running alone.
    """
    seconds: dict[Case, list[float]] = {name: [] for name in cases}
    for number in range(warmup + rounds):
        for name, case in cases.items():
            for _ in range(calls):
                elapsed = timed(case)
                if number >= warmup:
                    seconds[name].append(elapsed)
    return {name: Times(tuple(_slowest_rank(values))) for name, values in seconds.items()}


def timed(case: Callable[[], object]) -> float:
    """Seconds of one call, work on the device included; ranks start together."""
    if world_size() > 1:
        dist.barrier()
    if device().type != "cuda":
        start = time.perf_counter()
        case()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    case()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1000


def ratios(fast: Times, slow: Times) -> tuple[float, ...]:
    """How many times faster, one value a call: each call of one case against the other's at the same place."""
    return tuple(b / a for a, b in zip(fast.seconds, slow.seconds, strict=True))


@contextmanager
def whole_machine() -> Iterator[None]:
    """Rank 0 with the threads of all ranks, which sleep in a barrier meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads * world_size())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _slowest_rank(seconds: list[float]) -> list[float]:
    if world_size() == 1:
        return seconds
    slowest = torch.tensor(seconds, dtype=torch.float64, device=device())
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    found: list[float] = slowest.tolist()
    return found


def clock() -> float:
    """Seconds since some fixed moment, once the device has done all it was given."""
    synchronize()
    return time.perf_counter()


def synchronize() -> None:
    """Waits until the device has done all it was given."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """The most this process has held: GPU memory where there is one, else resident memory."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resident_peak_bytes()


def resident_peak_bytes() -> int:
    """The most memory this process has held. `getrusage` would count what its parent held when it started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def peaks_of_ranks() -> list[int]:
    """Every rank's `peak_bytes`."""
    return gather_rows(torch.tensor([peak_bytes()], device=device())).tolist()
