"""`POST /recommend` past FastAPI's layers, which take more than half of such a request's time."""

import json
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import TypeAdapter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from skipwise.retrieval.recommend.track_filter import each_once
from skipwise.retrieval.serve.answers import find_export
from skipwise.retrieval.serve.batching import Overloaded
from skipwise.retrieval.serve.guard import first_read
from skipwise.retrieval.serve.http_schema import FEW_FIELDS, RecommendRequest, error_response
from skipwise.retrieval.serve.service import Service

RECOMMEND = "/recommend"


class _Twice(Exception):
    """A name stands twice in one object, of which FastAPI would take the last without a word."""


def _objects(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return each_once(pairs)
    except ValueError as error:
        raise _Twice(error) from None


async def recommended(service: Service, request: RecommendRequest) -> Response:
    """The answer; raises `HTTPException` and `Overloaded`."""
    find_export(service.exports, request.export)
    return JSONResponse(await service.recommend.ask(request))


def quick(app: FastAPI, service: Service) -> ASGIApp:
    """Calls `app` for everything else, and for each body that it would not accept: so a refusal has one origin.

    `receive` must give a whole body at once.
    """
    route = next(route for route in app.routes if getattr(route, "path", None) == RECOMMEND)
    validated = TypeAdapter(Annotated[RecommendRequest, FEW_FIELDS]).validate_python

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != RECOMMEND or scope["method"] != "POST":
            return await app(scope, receive, send)
        message = await receive()
        try:
            given = json.loads(message["body"], object_pairs_hook=_objects)
            if Headers(scope=scope).get("content-type") != "application/json":
                raise ValueError("FastAPI knows other spellings of it")
            request = validated(given)
        except _Twice as error:
            scope["route"] = route
            return await error_response(422, str(error))(scope, receive, send)
        except Exception:
            return await app(scope, first_read(message, receive), send)
        scope["route"] = route
        try:
            response = await recommended(service, request)
        except Exception as error:
            handlers = app.exception_handlers.items()
            answer: Any = next(one for kind, one in handlers if isinstance(kind, type) and isinstance(error, kind))
            await (await answer(Request(scope), error))(scope, receive, send)
            if not isinstance(error, HTTPException | Overloaded):
                raise
            return
        await response(scope, receive, send)

    return call
