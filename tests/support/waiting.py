"""Waits in a test for what another process does."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], seconds: float = 60, said: Callable[[], str] = str, every: float = 0.1
) -> None:
    """Looks every so many seconds; after `seconds` the test fails with what `said` returns."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, said()
        time.sleep(every)
