"""The fields of a request for recommendations: one definition for the commands, the service and Python.

Imports neither torch nor Arrow.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from pydantic import BeforeValidator, Field

from skipwise.common.errors import UserError
from skipwise.models.config import MAX_DIAL
from skipwise.retrieval.recommend.track_filter import Filter, read_filter
from skipwise.retrieval.search.config import SearchChoice

MAX_K = 10_000
"""Tracks of one answer."""
MAX_PLAYS = 10_000
"""Tracks of one session."""

Exclude = Literal["session", "kept", "skipped", "none"]
"""Which tracks of the session are never recommended: all, those it kept, those it skipped, or none."""
Unknown = Literal["refuse", "drop"]


def check_dial(dial: Any) -> Any:
    """Raises `ValueError` unless `dial` is a number from 0 to `MAX_DIAL` or "auto"."""
    number = isinstance(dial, (int, float)) and not isinstance(dial, bool) and 0 <= dial <= MAX_DIAL
    if not number and dial != "auto":
        raise ValueError(f"dial {dial!r} must be auto or lie in 0..{MAX_DIAL:g}: 0 is off")
    return dial


def _dial_of(words: list[str]) -> Any:
    """One word of a command line; raises `UserError`, which tyro hands on as it is."""
    word: str | float = words[0]
    with suppress(ValueError):
        word = float(word)
    try:
        return check_dial(word)
    except ValueError as error:
        raise UserError(f"--{error}") from error


_OF_WORD: tyro.constructors.PrimitiveConstructorSpec[Any] = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="FLOAT|auto",
    instance_from_str=_dial_of,
    is_instance=lambda value: isinstance(value, (int, float, str)),
    str_from_instance=lambda value: [str(value)],
)
Dial = Annotated[float | Literal["auto"], BeforeValidator(check_dial), _OF_WORD]
"""What the logit of P(kept) weighs beside the next-track score; `auto` is the export's own choice."""
Likeness = Literal["cosine", "inner-product"]
ShortK = tyro.conf.arg(aliases=["-k"])


@dataclass(frozen=True, kw_only=True)
class RecommendOptions:
    """How to recommend after a session."""

    k: Annotated[int, Field(strict=True, ge=1, le=MAX_K), ShortK] = 10
    """Tracks to recommend; fewer where there are no more."""
    exclude: Exclude = "session"
    """Tracks of the session that are not recommended: all, those it kept, those it skipped, or none."""
    dial: Dial = 0.0
    """How much P(kept) weighs beside the score of the next track: 0 is off; `auto` is what puts most kept tracks
    above skipped ones for at most 0.3 points of HR@10, as `export` measured, or 0 where that is not sure. Needs a keep
    head (`--loss.keep`)."""
    filter: Filter = ()
    """Which tracks may be recommended, by the columns of the export and of --tracks, as JSON: `{"explicit": false,
    "territory": ["SE", "NO"], "artist": {"not": "X"}, "year": {"from": 1990, "to": 1999}}`; `track` lists ids."""
    cool_down: Annotated[int, Field(strict=True, ge=0, le=MAX_PLAYS)] = 0
    """Tracks are not recommended whose artist is one of the last so many plays' artists."""
    unknown: Unknown = "refuse"
    """What to do about a track that is not in the export: refuse, or leave it out of the session."""

    def __post_init__(self) -> None:
        check_k(self.k)
        object.__setattr__(self, "filter", read_filter(self.filter))
        number = isinstance(self.cool_down, int) and not isinstance(self.cool_down, bool)
        if not number or not 0 <= self.cool_down <= MAX_PLAYS:
            raise ValueError(f"cool_down {self.cool_down!r} must lie in 0..{MAX_PLAYS}: 0 is off")
        for name, choices in (("exclude", get_args(Exclude)), ("unknown", get_args(Unknown))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        check_dial(self.dial)


@dataclass(frozen=True, kw_only=True)
class RecommendConfig(RecommendOptions):
    """What was heard, and how many tracks to recommend."""

    export: Path
    """Directory that export wrote."""
    session: str | None = None
    """Track ids in play order with commas between them; ":skip" behind an id says that it was skipped, ":kept" that it
    was kept; of one without either it is not known. An id with commas or marks of its own goes in quotes, as in CSV."""
    profile: str | None = None
    """Ids of tracks that the listener kept in sessions before --session, the last one at the end, written as in that;
    for exports of runs with --data.profile."""
    input: Path | None = None
    """Many sessions instead: a Parquet file with the column `tracks` (lists of ids) and, optionally, `skips` (for each
    track whether it was skipped, or at which strength, 0..3; null: not known), `profile` (lists of ids, as --profile)
    and `session_id`."""
    output: Path | None = None
    """Parquet file to write for --input: `tracks` and `scores`, best first, in the order of the input, and with a keep
    head `kept`, the probability that the listener keeps each."""
    overwrite: bool = False
    """Replace --output if this command wrote it."""
    search: SearchChoice = "auto"
    """Score every track, or use the export's index; auto: the index where there is one."""
    tracks: Path | None = None
    """Parquet file of `track_id` and columns to filter by: text, flags, numbers, dates, or lists of them."""
    batch: int = 512
    """Sessions of the input that are searched for at a time."""
    names: bool = False
    """Write what the tracks are called to --output too: lists in columns such as `title`, where the export has them."""

    def __post_init__(self) -> None:
        if (self.session is None) == (self.input is None):
            raise ValueError("give either --session or --input")
        if self.input and not self.output:
            raise ValueError("--input needs --output: name the Parquet file to write")
        if self.input is not None and self.profile is not None:
            raise ValueError("--profile goes with --session: give --input a column `profile`")
        of_input = ("output", "overwrite", "unknown", "batch", "names")
        if self.input is None and any(getattr(self, name) != getattr(RecommendConfig, name) for name in of_input):
            raise ValueError(f"{', '.join(f'--{name}' for name in of_input)} go with --input, not with --session")
        if not 1 <= self.batch <= 1 << 16:
            raise ValueError(f"--batch {self.batch} must lie in 1..{1 << 16}")
        super().__post_init__()


@dataclass(frozen=True)
class SimilarConfig:
    """Which track's neighbours to list."""

    export: Path
    """Directory that export wrote."""
    track: str
    """The track's id."""
    k: Annotated[int, ShortK] = 10
    """Neighbours to list; fewer where there are no more."""
    by: Likeness = "cosine"
    """Similarity of two tracks: the cosine of their embeddings, or the inner product, which prefers long ones."""

    def __post_init__(self) -> None:
        if not self.track:
            raise ValueError("--track is empty: give a track's id")
        check_k(self.k)


@dataclass(frozen=True)
class FindConfig:
    """Which tracks to look for."""

    export: Path
    """Directory that export wrote."""
    text: tyro.conf.Positional[str]
    """Words of title and artist, of which the last may be a beginning; or how a track's id begins."""
    k: Annotated[int, ShortK] = 20
    """Tracks to list."""

    def __post_init__(self) -> None:
        check_k(self.k)


def check_k(k: int) -> None:
    """Raises `ValueError` for a number of tracks that no answer may have."""
    if not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ValueError(f"k {k!r} must lie in 1..{MAX_K}")
