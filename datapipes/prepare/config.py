"""The options of `prepare`."""

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from skipwise.datapipes.prepare.feature_options import FeatureOptions
from skipwise.datapipes.prepare.known_sources import SOURCES
from skipwise.datapipes.prepare.name_options import NameOptions
from skipwise.datapipes.prepare.session_options import SessionOptions
from skipwise.datapipes.prepare.shard_options import ShardOptions
from skipwise.datapipes.prepare.skip_options import SkipOptions
from skipwise.datapipes.prepare.split_options import SPLIT_OPTIONS, SplitOptions
from skipwise.datapipes.prepare.times import UNITS, duration, seconds
from skipwise.datapipes.signals import PAUSE

FILE_ORDER = "file"
"""The value of `order` that means: rows stand in play order already."""
USER_OF_FILE = "file"
"""The value of `user` that means: each file is of one listener, by its name."""
REST = "..."
"""The end of a name in `columns` whose column goes on to the end of the line."""
MSSD_ORDER = "session_position"
"""MSSD's column of a play's place in its session, from 1: no time."""


class Default(str):
    """The name that an option has where none is given, an object of its own: see `named_source.is_given`."""


NULLS = (
    *(
        text
        for word in ("nan", "null", "none")
        for text in map("".join, product(*zip(word, word.upper(), strict=True)))
    ),
    "\\N",
)
"""Unquoted texts that mean a missing value, unless --null names others."""
MOST_CONTEXT = 32
"""Columns that `context` may name."""
LEAST_MEMORY = 0.25
"""GiB."""
RESERVED = ("session_id", "tracks", "skips", "track_age", "profile")
"""Columns of session files."""


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What is read, and which columns mean what."""

    input: tuple[Path, ...] = ()
    """Files, or folders of them, at any depth: .csv, .tsv, .txt, .dat, .inter, .log, .jsonl, .ndjson and .json (each
    also with .gz, .zst, .bz2 or .xz) and .parquet."""
    explain: Path | tuple[Path, ...] | None = None
    """Look at these files or folders: print the command line that it seems to need, what its columns are taken for, and
    the first sessions. Writes nothing; other options are kept."""
    source: str | None = None
    """A source known by name, whose columns and rules are options that given ones override: mssd, spotify-history,
    lastfm, lastfm-1k, listenbrainz, yambda, kuairand, movielens or otto."""
    where: str | None = None
    """Only rows of which this condition in SQL is true, over any columns of the log: "ms_played > 30000"."""
    null: tuple[str, ...] | None = None
    """Unquoted texts that mean a missing value in text files, exactly as written: by default nan, null and none in
    any case, and \\N. An empty field is missing whatever is given: --null '' is that alone."""
    columns: tuple[str, ...] = ()
    """Names for the columns of files without a header line, in order. `user track...`: a line holds all tracks of a
    session."""
    delimiter: str | None = None
    """What stands between the fields of a text file, e.g. `;` or `::`; by default as the first lines say."""
    session: str | tuple[str, ...] = Default("session_id")
    """Column of the session id, or of the user id with --gap; several make one id. Those inside others are named with
    dots, as in `user.id`."""
    user: str | None = None
    """The log has no such column: all of it is of the listener of this name or, for `file`, each file is of one."""
    track: str | tuple[str, ...] = Default("track_id_clean")
    """Column of the track id; several, such as artist and title, make one id."""
    order: str = Default(MSSD_ORDER)
    """Column that orders the plays of a session: a number, a date, or a date and time. `file` means as they stand."""
    sort: bool = False
    """Sort each session by --order (equal values stay as they stand) in place of refusing rows out of order."""
    gap: str | None = None
    """Start a new session where the time in --order jumps by more than this, e.g. 30m (units: s, m, h, d). Sorts."""
    time_unit: str | None = None
    """What a numeric --order column counts: s (the default with --gap or --split time), ms, us, ns, m, h, d, or a
    multiple such as 5s."""
    time_format: str | None = None
    """How the dates and times in --order are written, in the letters of strptime, such as '%d/%m/%Y %H:%M'; not
    needed where they begin with the year or name the month."""
    drop_duplicate_plays: bool = False
    """Leave out rows that repeat a play (same session, same value of --order, same track). Needs --sort or --gap."""
    vocabulary: Path | None = None
    """A dataset directory or a run, whose tracks the new dataset has, in the same order: the run can be measured on it.
    Plays of other tracks are left out before sessions are cut and filtered."""
    context: tuple[str, ...] | None = None
    """Columns to keep of each play, whose values are words, whole numbers or flags: what a model can read of past
    plays. Unless given, those of MSSD that the log has; without a name, none."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written, and the memory and threads that it takes."""

    output: Path = Path()
    """Dataset directory to write. It appears whole or not at all."""
    overwrite: bool = False
    """Replace an --output that is a dataset directory already."""
    memory: float = 2.0
    """GiB for sorting and joining, beyond which they spill to disk beside --output."""
    threads: int | None = None
    """Threads; by default one a core."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(
    ShardOptions,
    OutputOptions,
    SplitOptions,
    SessionOptions,
    SkipOptions,
    FeatureOptions,
    NameOptions,
    InputOptions,
):
    """Turn raw listening logs into a dataset directory. The defaults read Spotify's MSSD; docs/data.md has the rest."""

    def __post_init__(self) -> None:
        if self.where is not None and not self.where.strip():
            raise ValueError('--where is empty: give a condition such as "ms_played > 30000"')
        if self.explain is not None:
            if self.input:
                raise ValueError("--explain names what it looks at: leave --input out")
            return  # the other options are not known yet
        if not self.input:
            raise ValueError("--input names no file: give at least one, or look at one with --explain")
        if self.output == Path():
            raise ValueError("--output is missing: name the dataset directory to write")
        self.check_shards()
        for field, value in vars(self).items():
            for text in map(str, value if isinstance(value, tuple) else (value,)):
                if not utf8(text):
                    raise ValueError(f"--{field.replace('_', '-')} must be UTF-8, not {text!r}: rename it")
        if self.source is not None:
            if self.source not in (known := dict.fromkeys(source.name for source in SOURCES)):
                raise ValueError(f"--source must be one of {', '.join(known)}, not '{self.source}'")
            return  # what the source says of the other options is not known yet
        if self.user is not None and (not self.user.strip() or self.session != PrepareConfig.session):
            raise ValueError("--user must be a name, and stands in place of --session: leave one out")
        if not self.session or not self.track:
            raise ValueError("--session and --track need the name of a column")
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", {"\\t": "\t", "tab": "\t"}.get(self.delimiter, self.delimiter))
            if not 1 <= len(self.delimiter) <= 8 or set(self.delimiter) & {*'\r\n"'}:
                raise ValueError("--delimiter must be 1 to 8 characters other than quotes and line breaks")
        if self.columns and self.columns[-1].endswith(REST) and len(self.columns) != 2:
            raise ValueError(f"--columns where the last one ends in {REST} are two: the session id and the tracks")
        if self.gap is not None and not re.fullmatch(r"\d+(\.\d+)?[smhd]", self.gap, re.ASCII):
            raise ValueError(f"--gap must be a number and a unit of s, m, h or d such as 30m, not '{self.gap}'")
        if self.time_unit is not None and not duration(self.time_unit):
            raise ValueError(
                f"--time-unit must be one of {', '.join(UNITS)}, or a multiple such as 5s, not '{self.time_unit}'"
            )
        if self.time_format is not None and self.order in (FILE_ORDER, MSSD_ORDER):
            raise ValueError("--time-format needs a column of dates: name it with --order")
        if self.time_format is not None and self.time_unit is not None:
            raise ValueError("--time-format is for dates and --time-unit for numbers: leave one out")
        if self.sorts and self.order == FILE_ORDER:
            raise ValueError("--sort and --gap need a column to sort by: name it with --order")
        if self.in_time_unit and self.order == MSSD_ORDER:
            option = "--gap" if self.gap else "--split time" if self.split == "time" else "--time-unit"
            raise ValueError(
                f"{option} needs a column of times, and {MSSD_ORDER} is a place in a session: name one with --order"
            )
        if self.drop_duplicate_plays and not self.sorts:
            raise ValueError("--drop-duplicate-plays needs sorted rows: add --sort or --gap")
        self._check_split()
        self._check_context()
        self.check_names()
        self.check_features(self.named_columns.values())
        self.check_skips()
        self.check_sessions(self.gap is not None)
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError(f"--threads must be from 1 to 1024, not {self.threads}")
        if not LEAST_MEMORY <= self.memory <= 1_000_000:
            raise ValueError(f"--memory must be at least {LEAST_MEMORY} GiB, and at most 1,000,000, not {self.memory}")

    def _check_split(self) -> None:
        for split, names in SPLIT_OPTIONS.items():
            for name in names:
                flag, given = f"--{name.replace('_', '-')}", getattr(self, name) is not None
                if given and self.split != split:
                    raise ValueError(f"{flag} belongs to --split {split}: leave it out, or give --split {split}")
                if split == self.split == "time" and not given:
                    raise ValueError(f"--split time needs {flag}: give a date such as 2018-07-15")
        if self.split == "session":
            for name, share in self.shares.items():
                if not 0 < share < 1:
                    raise ValueError(f"--{name.replace('_', '-')} must lie between 0 and 1, not {share}")
            if sum(self.shares.values()) >= 1:
                raise ValueError("--test-share and --validation-share leave nothing for training: lower them")
        if self.split == "time":
            if self.order == FILE_ORDER:
                raise ValueError("--split time needs a column of times: name one with --order")
            if self.starts["validation"] >= self.starts["test"]:
                raise ValueError(
                    f"--validation-from {self.validation_from} must be earlier than --test-from {self.test_from}"
                )

    def _check_context(self) -> None:
        names = self.context or ()
        if self.pause and self.order in (FILE_ORDER, MSSD_ORDER):
            raise ValueError(f"--pause needs a column of times, and --order {self.order} is none: name one by --order")
        if self.pause and PAUSE in names:
            raise ValueError(f"--context {PAUSE} and --pause are one column: leave one out")
        if len(names) > MOST_CONTEXT:
            raise ValueError(f"--context names {len(names)} columns: name at most {MOST_CONTEXT}")
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(f"--context names '{name}' twice: name it once")
            if name in RESERVED:
                raise ValueError(f"--context {name} is the name of a column that datasets have: rename it in the log")

    @property
    def starts(self) -> dict[str, Fraction]:
        """With --split time: where test and validation begin, in seconds since 1970."""
        options = {"test": "--test-from", "validation": "--validation-from"}
        return {split: seconds(str(getattr(self, f"{split}_from")), self.unit, of) for split, of in options.items()}

    @property
    def unit(self) -> Fraction:
        """What a numeric `order` counts with --gap or --split time, in seconds."""
        return duration(self.time_unit or "s")

    @property
    def in_time_unit(self) -> bool:
        """Whether a numeric `order` is a time, in `time_unit`."""
        return self.gap is not None or self.split == "time" or self.time_unit is not None

    @property
    def sorts(self) -> bool:
        """Whether rows are sorted; otherwise their order is checked."""
        return self.sort or self.gap is not None

    @property
    def gap_seconds(self) -> Fraction | None:
        """The gap in seconds."""
        return None if self.gap is None else duration(self.gap)

    def contents(self) -> dict[str, Any]:
        """The options that decide what the dataset directory holds, for its manifest."""
        places = {"input", "explain", "source", "vocabulary", "tracks", "track_features"} | {
            one.name for one in (*fields(OutputOptions), *fields(ShardOptions))
        }
        contents = {name: value for name, value in vars(self).items() if name not in places}
        if self.split == "session":
            contents |= self.shares
        if self.split == "time":
            contents |= {name: str(contents[name]) for name in SPLIT_OPTIONS["time"]}
        contents["time_unit"] = self.time_unit or "s"
        return {name: list(value) if isinstance(value, tuple) else value for name, value in contents.items()}


def utf8(text: str) -> bool:
    """Whether an argument or a file name was UTF-8: Python decodes other bytes to lone surrogates."""
    return not any("\ud800" <= one <= "\udfff" for one in text)
