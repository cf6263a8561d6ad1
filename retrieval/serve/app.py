"""The service's addresses."""

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from skipwise.components.similar import Likeness
from skipwise.retrieval.serve.answers import RecommendQuestion, SimilarQuestion, slot_of
from skipwise.retrieval.serve.error_answers import handle_faults
from skipwise.retrieval.serve.guard import guarded
from skipwise.retrieval.serve.schema import (
    MOST,
    Export,
    Fault,
    Neighbours,
    Recommendations,
    RecommendRequest,
    Tracks,
)
from skipwise.retrieval.serve.service import Service
from skipwise.retrieval.serve.static import add_page

_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": Fault, "description": description}
    for status, description in {
        400: "The request cannot be read.",
        404: "The track or the export is not there.",
        413: "The body is too large.",
        422: "A field is missing, unknown or out of range.",
        503: "Too many requests wait: try again after Retry-After seconds.",
    }.items()
}


def make_app(service: Service) -> ASGIApp:
    """The service as an ASGI application; it answers while its lifespan, or `service.running()`, lasts."""
    app = FastAPI(
        title="Skipwise",
        description="Recommendations from an export, and the tracks nearest to one.",
        # FastAPI's own pages of documentation load scripts from another host.
        docs_url=None,
        redoc_url=None,
        lifespan=lambda _: service.running(),
        responses=_FAULTS,
    )
    _add_questions(app, service)
    _add_state(app, service)
    add_page(app, service.config.report)
    handle_faults(app)
    return guarded(app, service)


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model=Recommendations, summary="What to play after a session")
    async def recommend(request: RecommendRequest) -> Response:
        slot_of(service.slots, request.export)
        session = [(play.track, play.skipped) for play in request.session]
        drops = request.unknown == "drop"
        question = RecommendQuestion(session, request.k, request.exclude, request.steer, drops, request.export)
        return JSONResponse(await service.recommend.ask(question))

    @app.get("/similar/{track:path}", response_model=Neighbours, summary="The tracks nearest to one in the table")
    async def similar(
        track: Annotated[str, Path(min_length=1)],
        k: Annotated[int, Query(ge=1, le=MOST)] = 10,
        by: Likeness = "cosine",
        export: Export = "main",
    ) -> Response:
        slot_of(service.slots, export)
        return JSONResponse(await service.similar.ask(SimilarQuestion(track, k, by, export)))

    @app.get("/tracks", response_model=Tracks, summary="Tracks whose id begins so")
    async def tracks(
        prefix: str = "", limit: Annotated[int, Query(ge=1, le=MOST)] = 20, export: Export = "main"
    ) -> Response:
        found = slot_of(service.slots, export).current.opened.tracks.starting_with(prefix)
        return JSONResponse({"tracks": [track for track, _ in zip(found, range(limit), strict=False)]})


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/exports", summary="What is served")
    async def exports() -> Response:
        return JSONResponse(service.about())

    @app.get("/health", summary="Whether the service answers, and from what")
    async def health() -> Response:
        return JSONResponse(service.health())

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
