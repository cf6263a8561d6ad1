"""The requests and answers of the service, from which its OpenAPI description is made."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field
from starlette.responses import JSONResponse

from skipwise.common.errors import printable
from skipwise.retrieval.recommend.config import Likeness, RecommendOptions

ExportName = Literal["main", "compare"]
LIMIT = 1000
"""Plays of a session, and tracks of an answer."""
_MOST_FIELDS = 100
"""Of a JSON object. pydantic lists every field that is wrong, and 100,000 of them take it seconds."""


def _few_fields(given: Any) -> Any:
    if isinstance(given, dict) and len(given) > _MOST_FIELDS:
        raise ValueError(f"it has {len(given):,} fields where at most {_MOST_FIELDS} were expected")
    return given


FEW_FIELDS = BeforeValidator(_few_fields)


def _utf8(text: str) -> str:
    """JSON's escapes can spell half a character, which no answer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair: send whole characters") from None
    return text


TrackId = Annotated[str, AfterValidator(_utf8)]


class Play(BaseModel):
    """One track of a session."""

    model_config = ConfigDict(strict=True, extra="forbid")

    track: TrackId
    skipped: bool | None = None
    """None: it is not known."""
    context: Annotated[dict[str, str | bool | int], FEW_FIELDS] = Field(
        default_factory=dict, description="What is known of the play, by context column."
    )


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True)
)
class RecommendRequest(RecommendOptions):
    """A session and how to recommend after it. Nothing is converted (no "10" for 10), and nothing is ignored."""

    session: Annotated[list[Annotated[Play, FEW_FIELDS]], FailFast(), Field(min_length=1, max_length=LIMIT)]
    """Oldest play first."""
    profile: Annotated[list[TrackId], FailFast(), Field(strict=True, max_length=LIMIT)] = field(default_factory=list)
    """Tracks that the listener kept in earlier sessions, the last one at the end; for exports that read them."""
    k: Annotated[int, Field(strict=True, ge=1, le=LIMIT)] = 10
    """Tracks to recommend."""
    export: ExportName = "main"
    """The export to ask."""
    why: Annotated[int, Field(strict=True, ge=0, le=10)] = 0
    """Tracks of the session to name with each recommendation: those nearest to it, by the cosine of the embeddings."""


@dataclass(frozen=True)
class SimilarRequest:
    """A track, and how to list its neighbours."""

    track: str
    k: int
    by: Likeness
    export: ExportName


class NamedTrack(BaseModel):
    """A track, and what it is called; other columns that `prepare --keep-track` kept stand beside these."""

    model_config = ConfigDict(extra="allow")

    track: str
    title: str | None = Field(None, description="Missing where it is not known.")
    artist: str | None = None


class NearTrack(NamedTrack):
    """A track of the session, and how near it is."""

    cosine: float


class RankedTrack(NamedTrack):
    """A track and its score."""

    score: float
    kept: float | None = Field(None, description="P(kept), by an export with a keep head.")
    nearest: list[NearTrack] | None = Field(None, description="Where `why` asks for it, nearest first.")


class ExportIdentity(BaseModel):
    """The export that answered."""

    name: ExportName
    recipe: str
    vocabulary_hash: str
    loaded: int = Field(description="1 for the first export under this name, one more for each newer one.")
    delta: int = Field(0, description="The last delta that its rows have; 0 without.")


class Neighbours(BaseModel):
    """Nearest first."""

    export: ExportIdentity
    tracks: list[RankedTrack]


class Recommendations(Neighbours):
    """Best first."""

    dropped: list[str] = Field(description="Tracks of session and profile that are not in the export.")
    session: list[NamedTrack] | None = Field(
        None, description="What the session's other tracks are called, by an export that has it."
    )


class Tracks(BaseModel):
    """Those found by words, the most played first; then ids that begin so, in the order of their text."""

    tracks: list[NamedTrack]


class ExamplePlay(NamedTrack):
    """A track that was played."""

    skipped: bool | None = Field(description="null: it is not known.")


class Examples(BaseModel):
    """Sessions of the dataset to start from, each with its oldest play first."""

    examples: list[list[ExamplePlay]]


class ErrorDetail(BaseModel):
    """What is wrong, in one sentence."""

    detail: str


def error_response(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An `ErrorDetail`; unprintable characters are written as escapes."""
    return JSONResponse({"detail": printable(sentence)}, status, headers)
