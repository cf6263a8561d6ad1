"""The settings of `train --follow`. Imports neither torch nor Arrow."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StreamConfig:
    """With --follow: rows for new tracks, deltas for services, and when to warn."""

    spare_rows: int = 65_536
    """Rows of the table for tracks that the run of --init-from lacks."""
    admit_plays: int = 1
    """Plays, over all parts so far, with which a new track gets a row. Until then its plays are left out."""
    evict_after: int = 0
    """Parts without a play after which a new track's row may be given to another one, where no row is free: the one
    unheard for longest goes first, of those the least played. 0 never takes a row away."""
    half_life: float = 20.0
    """Parts after which a play counts half in the shares that --loss.in-batch corrects by."""
    deltas: str = ""
    """Folder, also in an object store, for the rows that change (docs/follow.md); empty writes none."""
    delta_steps: int = 0
    """Steps of a part between two deltas, beside the one at its end; 0 leaves it at that."""
    delta_minutes: float = 0.0
    """Minutes of training on a part after which a delta is due, beside the one at its end; 0 leaves it at that."""
    deltas_kept: int = 1000
    """Deltas that stay in --stream.deltas, the newest ones: a service starts from an export that is no older."""
    poll_s: float = 5.0
    """Seconds between two looks for a new part."""
    idle_s: float = 0.0
    """Seconds without a new part after which training ends; 0 waits for ever. The same command goes on."""
    alarm_drop: float = 0.2
    """A warning where a part's validation lies by more than this share below the mean of the parts before; 0 never."""
    alarm_parts: int = 20
    """About how many parts that mean reaches back."""

    def __post_init__(self) -> None:
        if not 0 <= self.spare_rows < 1 << 31:
            raise ValueError(f"--stream.spare-rows {self.spare_rows} must lie in 0..{(1 << 31) - 1}")
        for name, least in (
            ("admit_plays", 1),
            ("evict_after", 0),
            ("delta_steps", 0),
            ("delta_minutes", 0),
            ("deltas_kept", 1),
            ("alarm_parts", 1),
        ):
            if getattr(self, name) < least:
                flag = f"--stream.{name.replace('_', '-')}"
                raise ValueError(f"{flag} {getattr(self, name)} must be at least {least}")
        if (self.delta_steps or self.delta_minutes) and not self.deltas:
            raise ValueError("--stream.delta-steps and .delta-minutes write into --stream.deltas: name a folder there")
        if not 0 < self.half_life < float("inf"):
            raise ValueError(f"--stream.half-life {self.half_life} must be a positive number of parts")
        if not self.poll_s > 0 or self.idle_s < 0:
            raise ValueError("--stream.poll-s must be positive, and --stream.idle-s not negative")
        if not 0 <= self.alarm_drop < 1:
            raise ValueError(f"--stream.alarm-drop {self.alarm_drop} must lie in [0, 1)")
