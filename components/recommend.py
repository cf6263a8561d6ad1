"""`recommend --export OUT --session "t_1,t_2:skip,t_3"`: what to play next, for one session or for a file of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from skipwise.common.errors import UserError
from skipwise.retrieval.recommend.limits import MOST_SESSIONS, check_k, check_steer

if TYPE_CHECKING:
    from skipwise.retrieval.open_export import OpenExport
    from skipwise.retrieval.recommend.recommender import Recommender

_OF_INPUT = ("output", "overwrite", "unknown", "batch")
"""Options that say nothing without --input."""


@dataclass(frozen=True)
class RecommendConfig:
    """What was heard, and how many tracks to recommend."""

    export: Path
    """Directory that export wrote."""
    session: str | None = None
    """Track ids in play order with commas between them; ":skip" behind an id: the track was skipped."""
    input: Path | None = None
    """Many sessions instead: a Parquet file of `tracks` (lists of ids), and, as one likes, `skips` (for each track
    whether it was skipped, or at which strength, 0..3) and `session_id`."""
    output: Path | None = None
    """Parquet file to write for --input: `tracks` and `scores`, best first, in the order of the input."""
    overwrite: bool = False
    """Replace recommendations that stand at `output`."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Tracks to recommend."""
    exclude: Literal["both", "heard", "skipped", "none"] = "both"
    """Tracks of the session that are not recommended: all, those it kept, those it skipped, or none."""
    steer: float = 0.0
    """How far to turn from what the skipped tracks have and the kept ones lack: 0 is off, 0.2 is some."""
    search: Literal["auto", "exact", "index"] = "auto"
    """Score every track, or use the index that index chose; auto: the index where there is one."""
    unknown: Literal["refuse", "drop"] = "refuse"
    """What to do about a track of the input that the export has not: end, or go on without it."""
    batch: int = 512
    """Sessions of the input that are searched for at a time."""

    def __post_init__(self) -> None:
        if (self.session is None) == (self.input is None):
            raise ValueError("give either --session or --input")
        if self.input and not self.output:
            raise ValueError("--input needs --output: name the Parquet file to write")
        if self.input is None and any(getattr(self, name) != getattr(RecommendConfig, name) for name in _OF_INPUT):
            raise ValueError(f"{', '.join(f'--{name}' for name in _OF_INPUT)} go with --input, not with --session")
        check_k(self.k)
        check_steer(self.steer)
        if not 1 <= self.batch <= MOST_SESSIONS:
            raise ValueError(f"--batch {self.batch} must lie in 1..{MOST_SESSIONS}")


def recommend(config: RecommendConfig) -> None:
    """Prints ranked tracks with their scores, or writes them to `output`."""
    from skipwise.retrieval.open_export import OpenExport
    from skipwise.retrieval.recommend.bulk import recommend_file
    from skipwise.retrieval.recommend.recommender import Recommender
    from skipwise.retrieval.recommend.session_text import read_session
    from skipwise.retrieval.search.opened_search import open_search

    if config.session is not None:
        read_session(config.session)  # its faults are told before an export is read
    opened = OpenExport.open(config.export)
    check_rows(config.k, opened)
    recommender = Recommender(opened, open_search(opened, config.search))
    if config.session is not None:
        _print_one(config, opened, recommender)
    else:
        recommend_file(config, opened, recommender)


def check_rows(k: int, opened: "OpenExport") -> None:
    """Raises `UserError` where more tracks are asked for than there are."""
    if k > len(opened.tracks):
        raise UserError(f"-k {k} asks for more than the {len(opened.tracks)} tracks of {opened.path}: ask for fewer")


def _print_one(config: RecommendConfig, opened: "OpenExport", recommender: "Recommender") -> None:
    from skipwise.retrieval.recommend.ranked import print_ranked
    from skipwise.retrieval.recommend.recommender import SessionHistory
    from skipwise.retrieval.recommend.session_text import known_session

    listened = SessionHistory.of([known_session(opened.tracks, config.session)])
    rows_1K, scores_1K = recommender.recommend(listened, config.k, config.exclude, config.steer)
    print_ranked(opened.tracks, rows_1K[0], scores_1K[0])
