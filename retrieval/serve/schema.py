"""What requests and answers look like; OpenAPI's description is made of it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Export = Literal["main", "compare"]
MOST = 1000
"""Plays of a session, and tracks of an answer."""


class _Strict(BaseModel):
    """Nothing is converted (no "10" for 10), and nothing is ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Play(_Strict):
    """One track of a session."""

    track: str
    skipped: bool = False


class RecommendRequest(_Strict):
    """A session and what to recommend after it."""

    session: list[Play] = Field(min_length=1, max_length=MOST, description="Oldest play first.")
    k: int = Field(10, ge=1, le=MOST, description="Tracks to recommend.")
    exclude: Literal["both", "heard", "skipped", "none"] = Field(
        "both", description="Which of the session's tracks are never recommended: all, those kept, those skipped, none."
    )
    steer: float = Field(0.0, ge=0, le=10, description="How far the query is moved away from skipped tracks.")
    unknown: Literal["refuse", "drop"] = Field("refuse", description="What is done about tracks not in the export.")
    export: Export = "main"


class Ranked(BaseModel):
    """A track and its score."""

    track: str
    score: float


class Answering(BaseModel):
    """Which export answered."""

    name: Export
    recipe: str
    vocabulary_hash: str
    loaded: int = Field(description="1 for the first export in its place, one more for each newer one.")


class Recommendations(BaseModel):
    """Best first."""

    export: Answering
    tracks: list[Ranked]
    dropped: list[str] = Field(description="Tracks of the session that the export does not have.")


class Neighbours(BaseModel):
    """Nearest first."""

    export: Answering
    tracks: list[Ranked]


class Tracks(BaseModel):
    """In the order of their text."""

    tracks: list[str]


class Fault(BaseModel):
    """What is wrong, in one sentence."""

    detail: str
