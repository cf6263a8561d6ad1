"""The options of `prepare` that say which plays were skipped."""

import math
import re
from dataclasses import dataclass
from typing import Literal

SKIPS = ("skip", "kept", "skip_strength", "rating", "reason", "played")
"""Options that name a column which says whether a play was skipped; the first that knows decides, but that a false flag
comes behind the reason."""
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000}


@dataclass(frozen=True, kw_only=True)
class SkipOptions:
    """Where skips are read from: by default from MSSD's flags. Of several columns the first, in this order, that is not
    empty decides, but that a false --skip decides behind --reason; where none says anything, whether a play was skipped
    is not known."""

    skip: str | None = None
    """Column that is true where a track was skipped (strength 2)."""
    kept: str | None = None
    """Column that is true where a track was kept (completed, clicked, liked), and skipped otherwise. Beside --skip, a
    play of which neither is true is not known."""
    skip_strength: str | None = None
    """Column of the skip strength, 0 to 3."""
    rating: str | None = None
    """Column of a rating, or of the share that was played: a low one counts as a skip (strength 2)."""
    skip_below: float = 3.0
    """Ratings below this are low."""
    reason: str | None = None
    """Column that says in a word why a play ended, or what the listener did."""
    skip_reasons: tuple[str, ...] = ()
    """Its words for a skip (strength 2), such as fwdbtn backbtn, in any case. Without --keep-reasons all others are
    kept."""
    keep_reasons: tuple[str, ...] = ()
    """Its words for a kept play. Without --skip-reasons all others are skipped; with both, other words say nothing."""
    played: str | None = None
    """Column of the time that was played; --skip-under says how little is a skip (strength 2)."""
    duration: str | None = None
    """Column of the track's length, in the unit of --played."""
    skip_under: str | None = None
    """Less played than this is a skip: a time such as 30s (units: ms, s, m), or with --duration a share such as .5."""
    played_unit: Literal["s", "ms"] | None = None
    """Unit of --played; needed where --skip-under is a time."""

    @property
    def least_played(self) -> float:
        """`skip_under` as a share, or in units of `played`; raises `ValueError` where it is neither."""
        match = re.fullmatch(r"(\d*\.?\d+)(ms|s|m)?", self.skip_under or "")
        if not match or not 0 < float(match[1]) < math.inf:
            raise ValueError(
                f"--skip-under must be a time such as 30s (units: ms, s, m) or a share such as .5, not "
                f"{(self.skip_under or '')[:40]!r}"
            )
        if not match[2]:
            return float(match[1])
        return float(match[1]) * _MILLISECONDS[match[2]] / _MILLISECONDS[self.played_unit or "s"]

    def check_skips(self) -> None:
        """Raises `ValueError` for options that do not go together."""
        if not math.isfinite(self.skip_below):
            raise ValueError(f"--skip-below must be a number such as 3, not {self.skip_below}")
        if (self.reason is None) != (not (self.skip_reasons or self.keep_reasons)):
            raise ValueError("--reason needs its words: name the column, and --skip-reasons, --keep-reasons or both")
        skips, keeps = ({word.strip().lower() for word in words} for words in (self.skip_reasons, self.keep_reasons))
        if both := skips & keeps:
            raise ValueError(f"--skip-reasons and --keep-reasons both name '{min(both)}': name it once")
        if self.played is None:
            for name in ("duration", "skip_under", "played_unit"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name.replace('_', '-')} needs --played: name the column of the time played")
            return
        if self.skip_under is None:
            raise ValueError("--played needs --skip-under: a time such as 30s, or with --duration a share such as .5")
        least, is_time = self.least_played, self.skip_under[-1] in "sm"
        if is_time and (self.duration or self.played_unit is None):
            raise ValueError(
                f"--skip-under {self.skip_under} is a time: say what --played counts with --played-unit s or ms, and "
                f"leave --duration out"
            )
        if not is_time and (least > 1 or self.duration is None):
            raise ValueError(
                f"--skip-under {self.skip_under} is no time: give one such as 30s, or a share up to 1 with --duration"
            )
