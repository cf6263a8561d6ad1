"""Errors of DuckDB and the system in the words of `prepare`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from skipwise.common.errors import UserError
from skipwise.common.machine import available_memory, process_memory
from skipwise.common.out_of_memory import is_out_of_memory
from skipwise.datapipes.prepare.config import LEAST_MEMORY, PrepareConfig

_BESIDE = 2_200_000_000
"""Bytes of address space beside `--memory`, most of them reserved for threads and never touched."""
STOPPED = "stopped before the dataset was whole: nothing was written"


@contextmanager
def plain_errors(config: PrepareConfig) -> Iterator[None]:
    """Raises what the user can correct as a `UserError`."""
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(STOPPED) from None
    except (duckdb.Error, OSError, RuntimeError) as error:
        if is_interruption(error):
            raise UserError(STOPPED) from None
        if isinstance(error, duckdb.OutOfMemoryException):
            raise UserError(_out_of_memory(config, str(error))) from None
        if isinstance(error, RuntimeError) or is_out_of_memory(error):
            raise
        raise UserError(f"{config.output} could not be written ({gist(error)}): check the disk") from None


def check_room(config: PrepareConfig) -> None:
    """Raises `UserError` where a limit of this process is below what DuckDB may take: it would end by a signal."""
    room, wanted = process_memory(), config.memory * 2**30 + _BESIDE
    if room is not None and room < wanted:
        lower = f"lower --memory {config.memory:g} (GiB), or " if room > LEAST_MEMORY * 2**30 + _BESIDE else ""
        raise UserError(
            f"the limit of this process (ulimit -v or -d) leaves {room / 1e9:.1f} GB of {wanted / 1e9:.1f} GB that are "
            f"needed: {lower}raise the limit"
        )


def _out_of_memory(config: PrepareConfig, said: str) -> str:
    """DuckDB says how much of its own limit is used where that was too low."""
    if "used)" in said:
        return f"--memory {config.memory:g} (GiB) does not suffice for this log: raise it"
    free = available_memory()
    left = "" if free is None else f", of which {free / 1e9:.1f} GB are free now"
    return (
        f"the system gave no more memory{left}: lower --memory {config.memory:g} (GiB), beyond which sorting spills to "
        "disk, or --threads, or use a machine with more"
    )


def is_interruption(error: BaseException | None) -> bool:
    """Whether ctrl-C caused an error: DuckDB turns it into one of several errors of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or re.search("interrupt", str(error), re.IGNORECASE):
            return True
        error = error.__context__
    return False


def gist(error: Exception) -> str:
    """Returns a library's error in one line, without the scratch directory that its files are in."""
    return re.sub(r"[^\s\"']*\.partial/", "", " ".join(str(error).split()))[:200]
