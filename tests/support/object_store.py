"""A real S3 server on the loopback interface, moto's, whose answers a test can replace, delay or watch."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyarrow.fs import S3FileSystem

Answer = Callable[[str, str], int]
"""(method, path of the object) -> the HTTP status to fail with, 0 for the store's own answer."""


class ObjectStore:
    """What tests know of the server."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[tuple[str, str]] = []
        """(method, path) of what was asked, in order."""
        self.answer: Answer = lambda method, path: 0

    def reset(self) -> None:
        """Forgets what was asked, and answers as the store does."""
        self.requests, self.answer = [], lambda method, path: 0

    def asked(self, method: str) -> list[str]:
        """The paths asked for by a method, without the bucket."""
        return [path.split("/", 2)[2] for how, path in self.requests if how == method and path.count("/") > 1]

    @property
    def files(self) -> S3FileSystem:
        """The store as pyarrow sees it, to look at it from outside of what is tested."""
        return S3FileSystem(
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            access_key="k",
            secret_key="s",
            region="us-east-1",
            allow_bucket_creation=True,
        )


@contextmanager
def running(host: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """Serves until the end of the block."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store, moto = ObjectStore(), DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        store.requests.append((method, path))
        status = store.answer(method, path)
        if not status:
            return moto(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} Failure", [("Content-Length", "0")])
        return []

    server = make_server(host, 0, application, True, request_handler=MotoRequestHandler)
    store.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        server.shutdown()
