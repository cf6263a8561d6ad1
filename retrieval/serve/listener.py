"""The port of a service, taken before the work of loading; it is listened to after that."""

import contextlib
import socket
from collections.abc import Iterator

from skipwise.common.errors import UserError
from skipwise.retrieval.serve.config import ServeConfig


def bound(config: ServeConfig) -> socket.socket:
    """A socket at the address of `config`; raises `UserError` where that is taken or not this machine's."""
    with refusing(config):
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener


@contextlib.contextmanager
def refusing(config: ServeConfig) -> Iterator[None]:
    """Turns what the system refuses into a `UserError` that names the port."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot listen on {config.host} port {config.port} ({error.strerror}): choose another --port or --host"
        ) from error
