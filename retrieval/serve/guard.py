"""What surrounds the application: requests refused before it is called, headers of every answer, and metrics.

Plain ASGI, so that no body or answer is held longer than necessary.
"""

import asyncio
import contextlib
import ipaddress
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skipwise.retrieval.serve.api_keys import CHALLENGE, OPEN
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.http_schema import error_response
from skipwise.retrieval.serve.service import Service

BODY_S = 30.0
"""Seconds in which a body must arrive."""
_NO_KEY = "this service asks for a key: send the header Authorization: Bearer KEY"
_HEADERS = {
    b"content-security-policy": b"default-src 'self'; base-uri 'none'; frame-ancestors 'self'; object-src 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-cache",
}


def guarded(app: ASGIApp, service: Service) -> ASGIApp:
    """`app` behind all guards. Requests are counted and timed by the declared path, so that no track has a series.

    A Host header that names another host is refused: a page elsewhere can point its own name at this machine, and
    would then read what only local programs, or those of this network, may read. Beyond the loopback every address is
    allowed, since a page has a name. (Starlette's TrustedHostMiddleware answers in plain text; every refusal of this
    service is `{"detail": one sentence}`.) Where the service has keys, whoever carries none gets a 401 before a body is
    read. While it drains, each answer is the last of its connection.
    """
    config: ServeConfig = service.config
    metrics, keys = service.metrics, service.keys
    hosts = {"localhost", "127.0.0.1", "::1", *(name.lower() for name in (config.host, *config.allowed_host))}
    loopback = is_loopback(config.host)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        start, status = time.perf_counter(), "none"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                own = message.get("headers", [])
                missing = _HEADERS.keys() - {name for name, _ in own}
                message["headers"] = [*own, *((name, value) for name, value in _HEADERS.items() if name in missing)]
                if service.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            host = _host(scope)
            if host not in hosts and (loopback or not _is_address(host)):
                sentence = "this service is asked by another name: ask it as localhost, or start it with --allowed-host"
                await error_response(400, sentence)(scope, receive, sending)
            elif keys and scope["path"] not in OPEN and not keys.allow(_authorization(scope)):
                await error_response(401, _NO_KEY, CHALLENGE)(scope, receive, sending)
            else:
                await _with_body(app, config.max_body, scope, receive, sending)
        finally:
            path = getattr(scope.get("route"), "path_format", None) or "other"
            metrics.requests.labels(path, status).inc()
            metrics.seconds.labels(path).observe(time.perf_counter() - start)

    return guard


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _authorization(scope: Scope) -> str:
    return Headers(scope=scope).get("authorization", "")


def _host(scope: Scope) -> str:
    said = Headers(scope=scope).getlist("host")
    try:
        return urlsplit(f"//{said[0]}").hostname or "" if len(said) == 1 else ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


async def _with_body(app: ASGIApp, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body before `app` is called, at most `limit` bytes of it, whatever its headers say."""
    body, more = bytearray(), True
    too_large = int(Headers(scope=scope).get("content-length", 0)) > limit
    try:
        async with asyncio.timeout(BODY_S):
            while more and not too_large:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
                too_large = len(body) > limit
    except TimeoutError:
        sentence = f"the body did not arrive within {BODY_S:.0f} seconds: send it faster"
        return await error_response(408, sentence, {"Connection": "close"})(scope, receive, send)
    if too_large:
        return await _refuse(limit, scope, receive, send)
    await app(scope, first_read({"type": "http.request", "body": bytes(body), "more_body": False}, receive), send)


def first_read(message: Message, receive: Receive) -> Receive:
    """A `receive` that gives `message` once before all others."""
    first = [message]

    async def read() -> Message:
        return first.pop() if first else await receive()

    return read


async def _refuse(limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once and reads a little more: a client that still sends would otherwise lose the answer."""
    sentence = f"the body is larger than {limit:,} bytes: send less (--max-body)"

    async def unfinished(message: Message) -> None:
        await send({**message, "more_body": True})

    await error_response(413, sentence, {"Connection": "close"})(scope, receive, unfinished)
    left, more = 4 * limit, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})
