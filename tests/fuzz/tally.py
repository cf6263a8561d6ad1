"""How many malformed inputs were tried and what became of them; and how many to try."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings

_ASKED = os.environ.get("SKIPWISE_FUZZ_CASES")
TIMES = float(_ASKED or 0.2)
"""A multiplier of the number of cases. `make test` tries a fifth, the same ones every time; `make soak` sets more."""
PATIENCE_S = 20


def cases(count: int) -> settings:
    """Settings for `count` cases, times `SKIPWISE_FUZZ_CASES`."""
    return settings(
        max_examples=max(1, round(count * TIMES)),
        deadline=None,
        derandomize=_ASKED is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Tally:
    """Counts the cases of a test module: `refused` properly, or `harmless`, since nothing that is read had changed."""

    def __init__(self, name: str) -> None:
        self.name, self.counts = name, Counter()

    def __str__(self) -> str:
        tried = sum(self.counts.values())
        return f"{self.name}: {tried:,} malformed inputs tried" + "".join(
            f", {count:,} {what}" for what, count in sorted(self.counts.items())
        )


@contextmanager
def patience() -> Iterator[None]:
    """Fails what takes over 20 seconds: an input that makes its reader wait is a fault too."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"still waiting after {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
