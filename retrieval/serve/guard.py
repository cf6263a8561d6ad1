"""What surrounds the application: requests refused before it is called, headers of every answer, and metrics.

Each guard is plain ASGI, so that none holds a body or an answer longer than necessary.
"""

import asyncio
import ipaddress
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.http_schema import error_response
from skipwise.retrieval.serve.prometheus import Metrics

BODY_S = 30.0
"""Seconds in which a body must arrive."""
_LINGER_S, _LINGER_BODIES = 1.0, 4
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def guarded(app: ASGIApp, config: ServeConfig, metrics: Metrics) -> ASGIApp:
    """`app` behind all guards."""
    app = BodyGuard(app, config.max_body)
    if is_loopback(config.host):
        app = HostGuard(app, config.host)
    return Observed(app, metrics)


class Observed:
    """Counts and times requests by the path's template, and adds the headers of every answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            path = _template(scope)
            self._metrics.requests.labels(path, str(status or "none")).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)


class HostGuard:
    """Refuses requests whose Host header names another host.

    A page elsewhere can point its own name at this machine's loopback, and would then read what only local programs
    may read. Starlette's TrustedHostMiddleware makes the same check, IPv6 literals included, but answers in plain text
    without a remedy; every refusal of this service is `{"detail": one sentence}`.
    """

    def __init__(self, app: ASGIApp, host: str):
        self._app, self._hosts = app, {"localhost", "127.0.0.1", "::1", host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and _host(scope) not in self._hosts:
            app = error_response(400, "this service answers only requests for its own machine: ask it as localhost")
        await app(scope, receive, send)


class BodyGuard:
    """Reads the body before the application is called, at most `limit` bytes of it, whatever its headers say."""

    def __init__(self, app: ASGIApp, limit: int):
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
        body, more = bytearray(), True
        too_large = declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > self._limit)
        try:
            async with asyncio.timeout(BODY_S):
                while more and not too_large:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    too_large = len(body) > self._limit
        except TimeoutError:
            response = error_response(408, f"the body did not arrive within {BODY_S:.0f} seconds: send it faster")
            response.headers["Connection"] = "close"
            return await response(scope, receive, send)
        if too_large:
            del body
            return await self._refuse(receive, send, scope)
        await self._app(scope, _again(bytes(body), receive), send)

    async def _refuse(self, receive: Receive, send: Send, scope: Scope) -> None:
        """Answers at once and reads a little more: a client that still sends would otherwise lose the answer."""
        response = error_response(413, f"the body is larger than {self._limit:,} bytes: send less (--max-body)")
        response.headers["Connection"] = "close"

        async def unfinished(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await response(scope, receive, unfinished)
        read = 0
        try:
            async with asyncio.timeout(_LINGER_S):
                while read < _LINGER_BODIES * self._limit:
                    message = await receive()
                    read += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, and then what follows it."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _host(scope: Scope) -> str | None:
    try:
        return urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname
    except ValueError:
        return None


def _template(scope: Scope) -> str:
    """The declared path, so that there is one time series an address and not one a track."""
    return getattr(scope.get("route"), "path_format", None) or "other"
