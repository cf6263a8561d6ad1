"""The connections of the service: their number, deadlines, and how much of one is read at a time.

uvicorn has a deadline for the next request on an idle connection, none for a request's head: the first byte ends it. At
its limit of connections it answers 503 to everyone, also where all the others are silent.
"""

import asyncio
import json
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
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


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """One connection. `BufferedProtocol`, as only that has a say in how much is read at a time."""

    _bite = memoryview(bytearray(_BITE))
    """One for all connections, for each bite is taken before the next is read."""
    most = CONNECTIONS
    """Of all connections."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.conn = _Pieces(h11.SERVER)
        self.waits_since = self.loop.time()
        """When it was opened, or the last request on it was answered."""
        self._head_since: float | None = self.waits_since
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for itself: silent connections must not keep others out."""
        transport.set_write_buffer_limits(0)
        super().connection_made(transport)
        if len(self.connections) > self.most:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.waits]
            min(waiting, key=lambda one: one.waits_since).drop()

    @property
    def waits(self) -> bool:
        """Whether the client has yet to send a request, or to read an answer."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self._unread_since is not None

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
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = self.loop.time()

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

    def send_400_response(self, msg: str) -> None:
        """As JSON, like every other refusal; where an answer has begun, closes the connection instead."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return self.drop()
        sentence = "this is no HTTP/1.1 request, or its body comes in too many pieces: send larger ones"
        body = json.dumps({"detail": sentence}).encode()
        fields = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        events = h11.Response(status_code=400, headers=list(fields.items())), h11.Data(data=body), h11.EndOfMessage()
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Pieces(h11.Connection):
    """Refuses a body of too many pieces."""

    _missing = 0
    """Bytes by which the pieces so far were too small together."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._missing = max(0, self._missing + _PIECE - len(event.data))
            if self._missing > PIECES * _PIECE:
                raise h11.RemoteProtocolError("the body comes in too many pieces")
        elif isinstance(event, h11.EndOfMessage):
            self._missing = 0
        return event


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
