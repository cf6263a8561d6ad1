"""Whatever goes wrong is answered by `{"detail": one sentence}`."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from skipwise.common.errors import UserError
from skipwise.retrieval.serve.answers import Refusal
from skipwise.retrieval.serve.batching import Overloaded

RETRY_S = 1
"""Seconds after which a refused client may try again."""
_SENTENCES = {
    400: "the request cannot be read: send UTF-8 JSON that is not deeply nested, as /openapi.json describes",
    404: "there is nothing at this address: see /openapi.json",
    405: "this address takes another method: see /openapi.json",
    500: "the service failed on this request: its log says why",
}


def fault(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer that says what is wrong; what cannot be printed is written as its escape."""
    return JSONResponse({"detail": str(UserError(sentence))}, status, headers)


def handle_faults(app: FastAPI) -> None:
    """Makes `app` answer so."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return fault(refusal.status, refusal.sentence)

    @app.exception_handler(Overloaded)
    async def overloaded(_: Request, __: Overloaded) -> JSONResponse:
        return fault(503, "too many requests wait: try again in a moment", {"Retry-After": str(RETRY_S)})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return fault(422, sentence_of(error.errors()))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return fault(error.status_code, _SENTENCES.get(error.status_code, str(error.detail)), error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return fault(500, _SENTENCES[500])


def sentence_of(errors: Sequence[dict[str, Any]]) -> str:
    """The first of pydantic's errors, as `session[3].track: ...`."""
    first = errors[0]
    where, *inside = first["loc"]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']} at character {inside[0] if inside else 0}"
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{_short(part)}" for part in inside).lstrip(".")
    if not name:
        return f"the {where} must be a JSON object as /openapi.json describes, sent as application/json"
    if first["type"] == "extra_forbidden":
        return f"there is no field {name}: see /openapi.json for those there are"
    if first["type"] == "missing":
        return f"the field {name} is missing: see /openapi.json"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{name} is refused, as the {message}" if message.startswith("input") else f"{name} is refused: {message}"


def _short(name: object) -> str:
    return str(name)[:60]
