"""The options of `prepare` that choose sessions, and what is kept with each."""

from dataclasses import dataclass
from typing import Literal

from skipwise.datapipes.config import MOST_PROFILE

Policy = Literal["stop", "skip", "cut", "session"]


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Which sessions are kept, and how much of them."""

    min_length: int = 3
    """Drop sessions of fewer tracks; leave-one-out needs 3."""
    drop_longer: int | None = None
    """Drop sessions of more tracks than this."""
    require_skip: bool = False
    """Drop sessions without a track of strength 1 or 2."""
    drop_duplicate_sessions: bool = False
    """Of sessions with the same tracks in the same order keep one, the first by a hash of the session id."""
    sample: int | None = None
    """Keep this many of the sessions that pass the filters above, drawn uniformly."""
    seed: int = 0
    """Seed of --sample and of --split session: the same sessions whatever the order of rows and files."""
    max_length: int | None = None
    """Cut longer sessions to their last tracks, this many; the filters see whole sessions."""
    profile: int = 0
    """Keep with each session the tracks that its listener kept in the sessions before it, the last ones, this many at
    most: what a model can read of them (--data.profile). Needs --gap, by which sessions are known to be of one
    listener."""
    pause: bool = False
    """Keep with each play a context column `pause`: how long after the play before it began, as the logarithm of
    seconds, where --order is a time. A model reads it with --data.inputs pause."""
    on_error: Policy = "stop"
    """At a bad row: `stop` with a sentence, `skip` the row, `cut` the session there (the row is left out, and a new
    session begins behind it), or drop its `session` (with --gap: the plays between two pauses). The manifest counts."""
    on_missing_track: Policy | None = None
    """The same for rows without a track id (podcasts, removed tracks); --on-error decides unless given."""

    def check_sessions(self, of_listeners: bool) -> None:
        """Raises `ValueError` for values out of range; `of_listeners`: sessions are cut from what a listener played."""
        for flag, value, least in (
            ("--min-length", self.min_length, 3),
            ("--drop-longer", self.drop_longer, self.min_length),
            ("--max-length", self.max_length, 3),
            ("--sample", self.sample, 1),
        ):
            if value is not None and not least <= value < 1 << 31:
                raise ValueError(f"{flag} must be at least {least} and less than 2^31, not {value}")
        if not 0 <= self.profile <= MOST_PROFILE:
            raise ValueError(f"--profile must be from 0 to {MOST_PROFILE}, not {self.profile}")
        if self.profile and not of_listeners:
            raise ValueError(
                "--profile needs to know which sessions are of one listener, and in which order: name the listener's "
                "column with --session and cut what they played with --gap 30m"
            )
