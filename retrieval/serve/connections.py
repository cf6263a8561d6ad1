"""The connections of the service: their number, deadlines, and how much of one is read at a time.

uvicorn has a deadline for the next request on an idle connection, none for a request's head: the first byte ends it. At
its limit of connections it answers 503 to everyone, also where all the others are silent.
"""

import asyncio
import json
import resource
from collections.abc import Collection
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

CONNECTIONS = 1000
"""Maximum number of connections, each of which may hold a body. For one more, that is closed which waits the longest
for its client."""
ACCEPTED = 64
"""Connections accepted in one turn of the loop."""
_OTHER_FILES = 64 + 4 * ACCEPTED
"""File descriptors for anything but connections; some of these are opened before others are closed."""
HEAD_S = 10.0
"""Seconds from the connection, or a later request's first byte, to the end of a request's head."""
UNREAD_S = 30.0
"""Seconds in which a client must take what was sent to it."""
_BITE = 8192
"""Bytes read of a connection before others have their turn."""
PIECES = 10_000
"""Chunks or packets of less than `_PIECE` bytes in a body, which take longer to parse than to send."""
_PIECE = 256
_NO_REQUEST = (
    "this is no HTTP/1.1 request, its head is too long, or its body comes in too many pieces: send larger ones"
)
_BESIDES = 1 << 16
"""Bytes of a head, or of what is sent between the pieces of a body and after it. The parser has no limit itself."""


class Connection(HttpToolsProtocol, asyncio.BufferedProtocol):
    """One connection. `BufferedProtocol`, as only that has a say in how much is read at a time."""

    _bite = memoryview(bytearray(_BITE))
    """One for all connections, for each bite is taken before the next is read."""
    most = CONNECTIONS
    """Of all connections."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.waits_since = self.loop.time()
        """When it was opened, or the last request on it was answered."""
        self._head_since: float | None = self.waits_since
        self._unread_since: float | None = None
        self._missing = 0
        """Bytes by which the pieces of a body so far were too small together."""
        self._besides = 0
        """Bytes of a request so far that are none of its body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for itself: silent connections must not keep others out."""
        transport.set_write_buffer_limits(0)
        super().connection_made(transport)
        self.flow = _InOrder(transport, self.pipeline)
        if len(self.connections) > self.most:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.waits]
            min(waiting, key=lambda one: one.waits_since).drop()

    @property
    def waits(self) -> bool:
        """Whether the client has yet to send a request, or to read an answer."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self._unread_since is not None:
            return True
        return cycle.more_body and not self.pipeline

    def drop(self) -> None:
        """Closes it, whatever has not been sent."""
        self.connections.discard(self)
        self.transport.abort()

    def late(self, now: float) -> bool:
        """Whether a deadline has passed."""
        deadlines = (self._head_since, HEAD_S), (self._unread_since, UNREAD_S)
        return any(since is not None and now - since > seconds for since, seconds in deadlines)

    def get_buffer(self, _: int) -> memoryview:
        """Where the next bite goes."""
        return self._bite

    def buffer_updated(self, nbytes: int) -> None:
        """Takes a bite."""
        self.data_received(bytes(self._bite[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Runs the head's deadline while a request has begun and its head is not complete."""
        self._besides += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
            if self._besides > _BESIDES:
                raise HttpParserError
        except HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except HttpParserError:
            self._refuse()
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Counts anew."""
        self._besides = self._missing = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Passes by an offer of another protocol, which is declined; what comes after a body is no header."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.headers = []

    def on_message_complete(self) -> None:
        """Passes by an offer of another protocol."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _decline(self, rest: bytes) -> None:
        """Reads the request again without its offer, for the parser takes no body after one. Java's client offers."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            return self._refuse()
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        head = b"".join([b"%b %b HTTP/%b\r\n" % (method, self.url, version), *fields, b"\r\n"])
        self.parser = HttpRequestParser(self)
        self.data_received(head + rest)

    def on_body(self, body: bytes) -> None:
        """Refuses a body of too many pieces."""
        self._besides -= len(body)
        self._missing = max(0, self._missing + _PIECE - len(body))
        if self._missing > PIECES * _PIECE:
            raise HttpParserError
        super().on_body(body)

    def on_response_complete(self) -> None:
        """The next request on this connection may begin."""
        self.waits_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The system takes no more of the answer."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """All that was sent is on its way."""
        self._unread_since = None
        super().resume_writing()

    def _refuse(self) -> None:
        """As JSON, like every other refusal; where an answer has begun or is due first, closes the connection."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or cycle.response_started or not cycle.more_body:
                return self.drop()
        body = json.dumps({"detail": _NO_REQUEST}).encode()
        fields = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + fields.encode() + body)
        self.transport.close()


class _InOrder(FlowControl):
    """Reads no more while requests that were sent at once wait for their turn."""

    def __init__(self, transport: asyncio.Transport, waiting: Collection[Any]):
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Does so once none waits."""
        if not self._waiting:
            super().resume_reading()


def drop_late(state: ServerState, now: float) -> None:
    """Closes the connections whose deadline has passed."""
    for one in list(state.connections):
        if isinstance(one, Connection) and one.late(now):
            one.drop()


def allow_files() -> int:
    """Raises this process's limit of open files where that is allowed; the connections that may be open under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(CONNECTIONS, soft - _OTHER_FILES))
