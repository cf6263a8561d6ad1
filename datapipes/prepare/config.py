"""The options of `prepare`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE_ORDER = "file"
"""The value of `order` that means: rows stand in play order already."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
SKIPS = ("skip", "skip_strength", "rating")


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What is read, and which columns mean what."""

    input: tuple[Path, ...]
    """Files, or folders of them: .csv, .tsv, .txt (each also with .gz) and .parquet."""
    columns: tuple[str, ...] = ()
    """Names for the columns of files without a header line, in order."""
    session: str = "session_id"
    """Column of the session id, or of the user id with `gap`."""
    track: str = "track_id_clean"
    """Column of the track id."""
    order: str = "session_position"
    """Column that orders the plays of a session: a number or a date and time. `file` means as they stand."""
    sort: bool = False
    """Sort each session by `order` (equal values stay as they stand) in place of refusing rows out of order."""
    gap: str | None = None
    """Start a new session where the time in `order` jumps by more than this, e.g. 30m (units: s, m, h, d). Sorts."""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of a numeric `order` column when `gap` is set."""
    context: bool = True
    """Keep the context columns that the source has."""


@dataclass(frozen=True, kw_only=True)
class SkipOptions:
    """Where skips are read from: by default from MSSD's flags."""

    skip: str | None = None
    """Column that is true where a track was skipped (strength 2), in place of MSSD's flags."""
    skip_strength: str | None = None
    """Column of the skip strength, 0 to 3, in place of MSSD's flags."""
    rating: str | None = None
    """Column of a rating, in place of MSSD's flags: a low one counts as a skip (strength 2)."""
    skip_below: float = 3.0
    """Ratings below this are low."""


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Which sessions are kept, and how much of them."""

    min_length: int = 3
    """Drop sessions of fewer tracks; leave-one-out needs 3."""
    drop_longer: int | None = None
    """Drop sessions of more tracks than this."""
    require_skip: bool = False
    """Drop sessions without a track of strength 1 or 2."""
    sample: int | None = None
    """Keep this many of the sessions that pass the filters above, drawn uniformly."""
    seed: int = 0
    """Seed of `sample`: the same sessions whatever the order of rows and files."""
    max_length: int | None = None
    """Cut longer sessions to their last tracks, this many; the filters see whole sessions."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a bad row: `stop` with a sentence, or `skip` its session and count it in the manifest."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written, and the memory and threads that it takes."""

    output: Path
    """Dataset directory to write. It appears whole or not at all."""
    overwrite: bool = False
    """Replace an `output` that is a dataset directory already."""
    memory: float = 2.0
    """GiB for sorting and joining, beyond which they spill to disk beside `output`."""
    threads: int | None = None
    """Threads; by default one a core."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(OutputOptions, SessionOptions, SkipOptions, InputOptions):
    """Turn raw listening logs into a dataset directory. The defaults read Spotify's MSSD; docs/data.md has the rest."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ValueError("--input names no file: give at least one")
        for field, value in vars(self).items():
            for text in map(str, value if isinstance(value, tuple) else (value,)):
                if not utf8(text):
                    raise ValueError(f"--{field.replace('_', '-')} must be UTF-8, not {text!r}: rename it")
        if self.gap is not None and not re.fullmatch(r"\d+(\.\d+)?[smhd]", self.gap):
            raise ValueError(f"--gap must be a number and a unit of s, m, h or d such as 30m, not '{self.gap}'")
        if self.sorts and self.order == FILE_ORDER:
            raise ValueError("--sort and --gap need a column to sort by: name it with --order")
        if sum(getattr(self, name) is not None for name in SKIPS) > 1:
            raise ValueError("--skip, --skip-strength and --rating exclude each other: give one")
        for flag, value, least in (
            ("--min-length", self.min_length, 3),
            ("--drop-longer", self.drop_longer, self.min_length),
            ("--max-length", self.max_length, 3),
            ("--sample", self.sample, 1),
        ):
            if value is not None and not least <= value < 1 << 31:
                raise ValueError(f"{flag} must be at least {least} and less than 2^31, not {value}")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError(f"--threads must be from 1 to 1024, not {self.threads}")
        if not 0.25 <= self.memory <= 1_000_000:
            raise ValueError(f"--memory must be at least 0.25 GiB, and at most 1,000,000, not {self.memory}")

    @property
    def sorts(self) -> bool:
        """Whether rows are sorted; otherwise their order is checked."""
        return self.sort or self.gap is not None

    @property
    def gap_seconds(self) -> float | None:
        """The gap in seconds."""
        return None if self.gap is None else float(self.gap[:-1]) * SECONDS[self.gap[-1]]

    def contents(self) -> dict[str, Any]:
        """The options that decide what the dataset directory holds, for its manifest."""
        places = ("input", "output", "overwrite", "memory", "threads")
        contents = {name: value for name, value in vars(self).items() if name not in places}
        return contents | {"columns": list(self.columns)}


def utf8(text: str) -> bool:
    """Whether an argument or a file name was UTF-8: Python decodes other bytes to lone surrogates."""
    return not any("\ud800" <= one <= "\udfff" for one in text)
