"""API keys: who may ask the service, where it has any keys."""

import base64
import hashlib
import hmac
import os
from pathlib import Path

from skipwise.common.errors import UserError
from skipwise.common.files import read_text

VARIABLE = "SKIPWISE_API_KEYS"
_SHORTEST = 16
_LARGEST_FILE = 1 << 20
OPEN = frozenset({"/health", "/ready"})
"""What a probe asks, which carries no key."""
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="skipwise", Basic realm="skipwise"'}
"""By the second a browser asks for the key, as a password, so that the page works too."""


class ApiKeys:
    """Keys of a file, one a line, and of the environment variable SKIPWISE_API_KEYS, between blanks.

    Only their hashes are kept. Where there is neither file nor variable, every request is allowed.
    """

    def __init__(self, file: Path | None):
        """Raises `UserError` for a file that cannot be read, a file or variable without a key, or a key that is too
        short or no visible ASCII."""
        self._file = file
        self._hashes = self._read()

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def read_again(self) -> None:
        """Takes the file's present keys; raises `UserError`, and keeps the former ones, where they cannot be read."""
        self._hashes = self._read()

    def allow(self, authorization: str) -> bool:
        """Whether the value of an Authorization header holds a key: `Bearer KEY`, or `Basic` with it as password.

        Compares with every key, in a time that says nothing of them.
        """
        if not self._hashes:
            return True
        given = _digest(_given(authorization))
        return sum([hmac.compare_digest(given, known) for known in self._hashes]) > 0

    def _read(self) -> list[bytes]:
        said = {VARIABLE: os.environ.get(VARIABLE, "").split()}
        if VARIABLE in os.environ and not said[VARIABLE]:
            raise UserError(f"{VARIABLE} is set and holds no API key, as if a secret were missing: fill it or unset it")
        if self._file:
            lines = map(str.strip, read_text(self._file, "one API key a line", _LARGEST_FILE).splitlines())
            said[str(self._file)] = [line for line in lines if line and not line.startswith("#")]
            if not said[str(self._file)]:
                raise UserError(f"{self._file} holds no API key: write one a line, or leave out --api-keys")
        for where, keys in said.items():
            for number, key in enumerate(keys, 1):
                if len(key) < _SHORTEST or not all("!" <= letter <= "~" for letter in key):
                    raise UserError(
                        f"key {number} of {where} must be at least {_SHORTEST} visible ASCII characters without "
                        "blanks: make one with openssl rand -hex 32"
                    )
        return [_digest(key) for keys in said.values() for key in keys]


def _given(authorization: str) -> str:
    kind, _, rest = authorization.partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
