"""What a process has used so far: time, work on the device included, and memory."""

import resource
import time

import torch

from skipwise.common.distributed import device, gather_rows


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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peaks_of_ranks() -> list[int]:
    """Every rank's `peak_bytes`."""
    return gather_rows(torch.tensor([peak_bytes()], device=device())).tolist()
