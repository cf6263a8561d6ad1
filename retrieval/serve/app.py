"""The addresses of the service: its API, its page, and `{"detail": one sentence}` for every error."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import fastapi
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from skipwise.retrieval.find_tracks import find_tracks, named_tracks
from skipwise.retrieval.recommend.config import Likeness
from skipwise.retrieval.serve.answers import find_export
from skipwise.retrieval.serve.batching import Overloaded
from skipwise.retrieval.serve.guard import guarded
from skipwise.retrieval.serve.http_schema import (
    FEW_FIELDS,
    LIMIT,
    ErrorDetail,
    Examples,
    ExportName,
    Neighbours,
    Recommendations,
    RecommendRequest,
    SimilarRequest,
    Tracks,
    error_response,
)
from skipwise.retrieval.serve.quick import RECOMMEND, quick, recommended
from skipwise.retrieval.serve.service import Service

PAGE = Path(__file__).parent / "page"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""Of one HTML file that loads nothing and runs no script."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorDetail, "description": description}
    for status, description in {
        400: "The request cannot be read.",
        401: "The service has keys, and the request carries none of them.",
        404: "The track or the export is not there.",
        413: "The body is too large.",
        422: "A field is missing, unknown or out of range.",
        503: "Too many requests wait: try again after Retry-After seconds.",
    }.items()
}
_SENTENCES = {
    "There was an error parsing the body": "the request cannot be read: send UTF-8 JSON that is not deeply nested, "
    "as /openapi.json describes",
    "Not Found": "there is nothing at this address: see /openapi.json",
    "Method Not Allowed": "this address takes another method: see /openapi.json",
}
"""The sentences for the framework's own errors."""


def make_app(service: Service) -> ASGIApp:
    """The service as an ASGI application; it answers during its lifespan, or during `service.running()`."""
    app = FastAPI(
        title="Skipwise",
        description="Recommendations from an export, and the tracks nearest to one.",
        # FastAPI's own pages of documentation load scripts from another host.
        docs_url=None,
        redoc_url=None,
        lifespan=lambda _: service.running(),
        responses=_ERRORS,
    )
    _add_requests(app, service)
    _add_state(app, service)
    _add_page(app, service.config.report)
    _add_errors(app)
    return guarded(quick(app, service), service)


def _add_requests(app: FastAPI, service: Service) -> None:
    # FastAPI's own threads are 40, and each of them takes as many turns as the loop.
    one_by_one = CapacityLimiter(1)

    @app.post(RECOMMEND, response_model=Recommendations, summary="What to play after a session")
    async def recommend(request: Annotated[RecommendRequest, FEW_FIELDS]) -> Response:
        return await recommended(service, request)

    @app.get("/similar/{track:path}", response_model=Neighbours, summary="The tracks nearest to one in the table")
    async def similar(
        track: Annotated[str, fastapi.Path(min_length=1)],
        k: Annotated[int, Query(ge=1, le=LIMIT)] = 10,
        by: Likeness = "cosine",
        export: ExportName = "main",
    ) -> Response:
        find_export(service.exports, export)
        return JSONResponse(await service.similar.ask(SimilarRequest(track, k, by, export)))

    @app.get("/tracks", response_model=Tracks, summary="Tracks by words of title and artist, or by how their id begins")
    async def tracks(
        q: str = "",
        limit: Annotated[int, Query(ge=1, le=LIMIT)] = 20,
        export: ExportName = "main",
        prefix: Annotated[str | None, Query(include_in_schema=False)] = None,
    ) -> Response:
        if prefix is not None:
            raise HTTPException(422, "prefix is called q now, and also finds words of titles and artists: send q")
        opened = find_export(service.exports, export).current.opened

        def found() -> Response:
            return JSONResponse({"tracks": named_tracks(opened, find_tracks(opened, q, limit))})

        return await to_thread.run_sync(found, limiter=one_by_one)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/examples", response_model=Examples, summary="Sessions of the dataset, to start from")
    async def examples(export: ExportName = "main") -> Response:
        return JSONResponse({"examples": find_export(service.exports, export).current.examples()})

    @app.get("/exports", summary="What is served")
    async def exports() -> Response:
        return JSONResponse(service.about())

    @app.get("/health", summary="Whether the service answers, and from which exports")
    async def health() -> Response:
        return JSONResponse(service.health())

    @app.get("/ready", summary="Whether to send requests here: 503 while the service ends")
    async def ready() -> Response:
        if service.draining:
            return error_response(503, "the service ends: ask another one")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI, report: Path | None) -> None:
    """`/report`, read again at each request, and the page at `/` with its files beside it."""

    @app.get("/report", summary="The run's report, as HTML", response_class=Response)
    async def show_report() -> Response:
        if report is None:
            raise HTTPException(404, "there is no report here: start the service with --report report.html")
        if not report.is_file():
            raise HTTPException(404, "the report's file is gone: write it again with report")
        return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    files = StaticFiles(directory=PAGE, html=True)
    for name in {file.name for file in PAGE.glob("*.*")} - {"index.html"} | {""}:
        app.router.routes.append(Route(f"/{name}", files))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, __: Overloaded) -> JSONResponse:
        sentence = "too many requests wait: try again in a moment"
        return error_response(503, sentence, {"Retry-After": "1"})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(422, _invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        sentence = _SENTENCES.get(error.detail, error.detail)
        return error_response(error.status_code, sentence, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return error_response(500, "the service failed on this request: its log says why")


def _invalid(errors: Sequence[dict[str, Any]]) -> str:
    """The first of pydantic's errors, as `session[3].track is refused: ...`."""
    first = errors[0]
    where, *inside = first["loc"]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{str(part)[:60]}" for part in inside).lstrip(".")
    if not name or first["type"] == "json_invalid":
        return f"the {where} must be a JSON object as /openapi.json describes, sent as application/json"
    return f"{name} is refused: {first['msg'].removeprefix('Value error, ')} (see /openapi.json)"
