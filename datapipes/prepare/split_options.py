"""The options of `prepare` that say what training does not see."""

from dataclasses import dataclass
from typing import Literal

SPLIT_OPTIONS = {"session": ("test_share", "validation_share"), "time": ("test_from", "validation_from")}
SHARES = {"test_share": 0.2, "validation_share": 0.1}
"""What --split session holds out by default."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """What training does not see."""

    split: Literal["last", "session", "time"] = "last"
    """`last`: the last track of every session (test) and the one before it (validation). `session`: whole sessions,
    drawn by a hash of seed and session id. `time`: whole sessions, by the time of their last play."""
    test_share: float | None = None
    """With --split session: the share of the sessions that is test, 0.2 unless given."""
    validation_share: float | None = None
    """With --split session: the share of the sessions that is validation, 0.1 unless given."""
    test_from: str | None = None
    """With --split time: a session with a play at this time or later is test. A date, a date and time (UTC unless it
    has an offset), or a number in the unit of --order."""
    validation_from: str | None = None
    """With --split time: a session that is not test, with a play at this time or later, is validation."""

    @property
    def shares(self) -> dict[str, float]:
        """The shares of the sessions that --split session holds out, by option."""
        return {name: default if (given := getattr(self, name)) is None else given for name, default in SHARES.items()}
