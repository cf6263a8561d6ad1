"""From a config to a listening process, and to its end."""

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Generator
from types import FrameType
from typing import Any

import torch
import uvicorn

from skipwise.common.distributed import logger
from skipwise.common.errors import UserError
from skipwise.retrieval.serve.api_keys import ApiKeys
from skipwise.retrieval.serve.app import make_app
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.connections import ACCEPTED, Connection, allow_files, drop_late
from skipwise.retrieval.serve.guard import is_loopback
from skipwise.retrieval.serve.listener import bound, refusing
from skipwise.retrieval.serve.service import Service
from skipwise.retrieval.serve.workers import Worker
from skipwise.retrieval.shared_rows import share_in

GRACE_S = 30
"""Seconds that requests in flight are given at the end."""
KEEP_ALIVE_S = 75
"""Of an idle connection. Longer than the 60 or less of most proxies, which would reuse one that was just closed."""
_BACKLOG = 1024
"""Connections that the system holds until they are accepted."""
_QUIET_S = 60.0
"""Seconds between two lines about connections that cannot be accepted."""
_TURN_S = 0.0002
"""Seconds after which a busy loop lets a search go on, which asks for a turn with each of its hundred operations.
Python's 5 ms add up: 500 requests a second waited half a second longer, and some found the queue full."""
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Server(uvicorn.Server):
    """Leaves signals to `_serve`: uvicorn would end the process by the signal, as if the service had failed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Captures none."""
        yield

    worker: Worker | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Gives back the backlog, which asyncio takes for the number to accept in one turn too."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)
        if self.worker:
            self.worker.ready()

    async def on_tick(self, counter: int) -> bool:
        """Is called ten times a second."""
        drop_late(self.server_state, asyncio.get_running_loop().time())
        return await super().on_tick(counter)


class FewLines:
    """An exception handler of a loop. asyncio's own writes a traceback for each connection that it cannot accept."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Writes of these one line a minute."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_MORE:
            loop.default_exception_handler(context)
        elif loop.time() >= self._quiet_until:
            self._quiet_until = loop.time() + _QUIET_S
            logger.warning(f"skipwise: no connection can be accepted ({error.strerror}): raise the limit (ulimit -n)")


def run(config: ServeConfig, worker: Worker | None = None) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP checks for newer exports. Does not listen before all is loaded.

    `worker`: what this process has of several that serve together.
    """
    speaks = worker is None or worker.is_first
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    if config.report and not config.report.is_file():
        raise UserError(f"--report {config.report} is no file: give one that report wrote")
    if speaks and not is_loopback(config.host):
        what = "keys are sent without TLS" if ApiKeys(config.api_keys) else "there is no authentication"
        logger.warning(f"skipwise: {config.host} is reachable from other machines, and {what}")
    if worker:
        share_in(worker.folder)
    with worker.listener if worker else bound(config) as listener:
        torch.set_num_threads(config.threads)
        sys.setswitchinterval(_TURN_S)
        gc.freeze()  # what the libraries made is never garbage, and would be gone through again and again
        service = Service(config)
        with refusing(config):
            listener.listen(_BACKLOG)
        Connection.most = allow_files()
        server = _Server(
            uvicorn.Config(
                make_app(service),
                http=Connection,
                ws="none",
                lifespan="on",
                log_level="error",  # a line for each request that is malformed would fill a disk
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=1 if worker else ACCEPTED,  # one after the other, so that each process takes some
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        server.worker = worker
        asyncio.run(_serve(server, service, listener, speaks))


async def _serve(server: _Server, service: Service, listener: socket.socket, speaks: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(FewLines())
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(service.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    def exit_soon() -> None:
        server.should_exit = True

    def drain() -> None:
        if service.draining:  # a second signal
            return exit_soon()
        service.draining = True
        loop.call_later(service.config.drain_s, exit_soon)

    def stop(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain)

    signal.signal(signal.SIGTERM, stop)
    if not server.worker:  # ctrl-C reaches all processes: the first one turns it into SIGTERM
        signal.signal(signal.SIGINT, stop)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(reload))
    rows = service.exports["main"].current.opened.manifest.rows
    host, port = listener.getsockname()[:2]
    if speaks:
        logger.info(f"serving {rows:,} tracks at http://{f'[{host}]' if ':' in host else host}:{port}")
    await server.serve(sockets=[listener])
