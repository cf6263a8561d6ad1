"""Clients that are silent, slow, or send in crumbs: each is closed or answered, and nobody else waits for them."""

import asyncio
import contextlib
import errno
import json
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvicorn

from skipwise.common.distributed import logger
from skipwise.retrieval.serve import connections
from skipwise.retrieval.serve.connections import Connection
from skipwise.retrieval.serve.server import FewLines, _Server

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[..., Coroutine[Any, Any, Client]]


async def app(scope: dict, receive: Callable, send: Callable) -> None:
    """Answers once it has the body: its size, or a megabyte for the path /large."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message["body"])
        if not message["more_body"]:
            break
    else:
        return
    body = b"x" * (1 << 23) if scope["path"] == "/large" else str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(application: Callable = app) -> AsyncIterator[Open]:
    """A way to connect, with bytes to send at once, to a server in this loop."""
    server = _Server(
        uvicorn.Config(application, http=Connection, log_level="error", backlog=4, timeout_graceful_shutdown=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        clients: list[Client] = []

        async def connect(*pieces: bytes) -> Client:
            clients.append(await asyncio.open_connection(*listener.getsockname()))
            for piece in pieces:
                clients[-1][1].write(piece)
            return clients[-1]

        try:
            while not server.started:
                await asyncio.sleep(0.01)
            connect.connections = server.server_state.connections
            yield connect
        finally:
            for _, writer in clients:
                writer.transport.abort()
            server.should_exit = True
            await task


async def answer(client: Client) -> tuple[int, bytes]:
    """Status and body; (0, b"") where the connection was closed without one."""
    reader, _ = client
    async with asyncio.timeout(10):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        return int(head.split()[1]), await reader.readexactly(int(length.split(b":")[1]))


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come(monkeypatch: pytest.MonkeyPatch, said: bytes):
    """The first on a connection, and a later one; what is only idle stays open."""
    monkeypatch.setattr(connections, "HEAD_S", 0.3)

    async def run() -> None:
        async with serving() as connect:
            idle, later, first = await connect(GET), await connect(GET), await connect(said)
            assert (await answer(later), await answer(idle)) == ((200, b"0"), (200, b"0"))
            later[1].write(b"G")
            assert await answer(first) == (0, b"")
            assert await answer(later) == (0, b"")
            idle[1].write(GET)
            assert await answer(idle) == (200, b"0")

    asyncio.run(run())


def test_one_byte_at_a_time_does_not_help(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.3)

    async def run() -> None:
        async with serving() as connect:
            client, begun = await connect(b"GET /"), asyncio.get_running_loop().time()
            answered = asyncio.create_task(answer(client))
            while not answered.done():
                client[1].write(b"G")
                await asyncio.sleep(0.05)
            assert answered.result() == (0, b"")
            assert asyncio.get_running_loop().time() - begun < 5

    asyncio.run(run())


def test_an_answer_that_nobody_reads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "UNREAD_S", 0.3)

    async def run() -> None:
        async with serving() as connect:
            reader, writer = await connect()
            writer.transport.pause_reading()
            writer.write(GET.replace(b"/ ", b"/large ", 1))
            await asyncio.sleep(0.8)
            writer.transport.resume_reading()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1 << 23)

    asyncio.run(run())


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n", POST + b"5\r\nab", GET])
def test_silent_connections_make_room(monkeypatch: pytest.MonkeyPatch, said: bytes):
    """Those that have waited longest for their client are closed; everyone else is answered."""
    monkeypatch.setattr(Connection, "most", 8)

    async def run() -> None:
        async with serving() as connect:
            silent = [await connect(said) for _ in range(8)]
            await asyncio.sleep(0.1)
            for _ in range(20):
                client = await connect(GET)
                assert await answer(client) == (200, b"0")
            closed = [await answer(one) for one in silent]
            assert (closed == [(200, b"0")] * 8) if said == GET else (closed == [(0, b"")] * 8)

    asyncio.run(run())


def test_a_body_in_crumbs_lets_others_in(monkeypatch: pytest.MonkeyPatch):
    """It is refused once it has come in too many pieces, and is taken in small bites until then."""
    monkeypatch.setattr(connections, "PIECES", 4000)
    bites = []
    received = Connection.data_received
    monkeypatch.setattr(Connection, "data_received", lambda self, data: (bites.append(len(data)), received(self, data)))

    async def run() -> None:
        async with serving() as connect:
            crumbs = await connect(POST, b"1\r\nx\r\n" * 50_000, b"0\r\n\r\n")
            status, body = await answer(crumbs)
            assert status == 400 and "too many pieces" in json.loads(body)["detail"]
            assert max(bites) <= 8192 and sum(bites) < 100_000
            twice = await connect(*[POST, b"1\r\nx\r\n" * 3000, b"0\r\n\r\n"] * 2)  # counted anew for each request
            assert [await answer(twice), await answer(twice)] == [(200, b"3000")] * 2
            large = await connect(POST, (b"200\r\n" + b"x" * 512 + b"\r\n") * 5000, b"0\r\n\r\n")
            assert await answer(large) == (200, b"2560000")

    asyncio.run(run())


def test_what_is_no_http(capfd: pytest.CaptureFixture):
    """A sentence, and nothing in the log."""

    async def run() -> None:
        async with serving() as connect:
            status, body = await answer(await connect(b"\x16\x03\x01\x02\x00\r\n\r\n"))
            assert status == 400 and list(json.loads(body)) == ["detail"]

    asyncio.run(run())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("limits", "most", "then"),
    [
        ((1024, 1024), 704, (1024, 1024)),
        ((256, 4096), 1000, (1320, 4096)),
        ((1024, resource.RLIM_INFINITY), 1000, (1320, resource.RLIM_INFINITY)),
        ((resource.RLIM_INFINITY,) * 2, 1000, (resource.RLIM_INFINITY,) * 2),
        ((4096, 4096), 1000, (4096, 4096)),
        ((64, 64), 8, (64, 64)),
    ],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, limits: tuple, most: int, then: tuple):
    set_limits = [limits]
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: set_limits[-1])
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, new: set_limits.append(new))
    assert connections.allow_files() == most and set_limits[-1] == then


def test_one_line_where_none_can_be_accepted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)  # an earlier test may have left it either way
    loop = asyncio.new_event_loop()
    try:
        handler = FewLines()
        with caplog.at_level(logging.WARNING):
            for _ in range(1000):
                error = OSError(errno.EMFILE, "Too many open files")
                handler(loop, {"message": "socket.accept() out of system resource", "exception": error})
            assert len(caplog.messages) == 1 and "ulimit -n" in caplog.messages[0]
            handler(loop, {"message": "another fault"})
            assert caplog.messages[-1] == "another fault"
    finally:
        loop.close()


LONG = {
    "head": (b"GET / HTTP/1.1\r\n", b"a: b\r\n", b"Host: localhost\r\n\r\n"),
    "header": (b"GET / HTTP/1.1\r\na: ", b"b", b"\r\n\r\n"),
    "address": (b"GET /", b"a", b" HTTP/1.1\r\n\r\n"),
    "blanks": (b"", b"\r\n", GET),
    "trailers": (POST + b"0\r\n", b"a: b\r\n", b"\r\n"),
    "chunk": (POST + b"1;", b"a", b"\r\nx\r\n0\r\n\r\n"),
    "chunks": (POST, b"1;aaaaaaaaaaaaaaaa\r\nx\r\n", b"0\r\n\r\n"),
}
"""What begins, goes on, and ends."""


@pytest.mark.parametrize("kind", LONG)
def test_what_is_no_body_has_a_limit(kind: str):
    """The parser itself takes any length."""
    begins, goes_on, ends = LONG[kind]

    async def run() -> None:
        async with serving() as connect:
            status, body = await answer(await connect(begins, goes_on * (90_000 // len(goes_on))))
            assert status == 400 and "too long" in json.loads(body)["detail"]
            assert (await answer(await connect(begins, goes_on * (40_000 // len(goes_on)), ends)))[0] == 200

    asyncio.run(run())


async def slow(scope: dict, receive: Callable, send: Callable) -> None:
    """Answers with its path and headers, after the body and a turn of the loop."""
    if scope["type"] == "lifespan":
        return await app(scope, receive, send)
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(0.002)
    said = {name.decode(): value.decode() for name, value in scope["headers"]}
    body = json.dumps([scope["path"], said]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def test_requests_sent_at_once():
    """Answered in their order; of those that wait no more are read than come in one bite."""

    async def run() -> None:
        async with serving(slow) as connect:
            client = await connect(b"".join(GET.replace(b"/ ", b"/%d " % number) for number in range(400)))
            for number in range(400):
                if number % 100 == 50:
                    (one,) = connect.connections
                    assert len(one.pipeline) <= 8192 // len(GET)
                status, body = await answer(client)
                assert status == 200 and json.loads(body)[0] == f"/{number}"

    asyncio.run(run())


def test_what_follows_a_body_is_no_header():
    async def run() -> None:
        async with serving(slow) as connect:
            client = await connect(POST, b"1\r\nx\r\n0\r\nHost: example.org\r\nContent-Type: a/b\r\n\r\n")
            _, body = await answer(client)
            assert json.loads(body)[1] == {"host": "localhost", "transfer-encoding": "chunked"}

    asyncio.run(run())


def test_a_refusal_is_not_taken_for_an_earlier_answer():
    """What is no HTTP follows a request that is still being answered: no 400 comes in the place of its answer."""

    async def run() -> None:
        async with serving(slow) as connect:
            for pieces in ([GET + b"\x16\x03\r\n\r\n"], [GET, b"\x16\x03\r\n\r\n"], [GET * 3 + b"\x16\r\n\r\n"]):
                status, _ = await answer(await connect(*pieces))
                assert status in (0, 200)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["GET", "POST"])
def test_other_protocols_are_not_spoken(kind: str):
    """As HTTP allows, the request is answered as if it had not offered one."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    body = b"Content-Length: 3\r\n\r\nabc" if kind == "POST" else b"\r\n"

    async def run() -> None:
        async with serving() as connect:
            client = await connect(kind.encode() + b" / HTTP/1.1\r\nHost: localhost\r\n" + offer + body)
            assert await answer(client) == (200, b"3" if kind == "POST" else b"0")
            client[1].write(GET)
            assert await answer(client) == (200, b"0")
            assert (await answer(await connect(b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n")))[0] == 400

    asyncio.run(run())
