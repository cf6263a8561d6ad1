"""Errors of memory that ran out, whatever library raised them, and what is left of it."""

import errno
import re

from skipwise.common.errors import brief
from skipwise.common.machine import available_memory, process_memory

_WORDS = re.compile(
    r"allocate memory|std::bad_alloc|out of memory|not enough memory|malloc of size|start new thread", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the host or of a GPU, did not suffice; Python finds none for a new thread's stack either."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_WORDS.search(str(error))))


def shortage(error: BaseException) -> str:
    """Returns what was asked for, as far as the error tells, and what is free, in words."""
    own, all_free = process_memory(), available_memory()
    free = [] if all_free is None else [f"{all_free / 1e9:,.1f} GB are free on the machine or in its control group"]
    if own is not None:
        free.append(f"the limit of this process (ulimit -v or -d), which may be raised, leaves {own / 1e9:,.1f} GB")
    return "; ".join([f"{type(error).__name__}: {brief(error)}" if str(error) else type(error).__name__, *free])
