"""The settings of `push`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

DestinationKind = Literal["qdrant", "pgvector"]
_NAME = r"[A-Za-z_][A-Za-z0-9_-]{0,62}"


@dataclass(frozen=True)
class PushConfig:
    """What to push and where to."""

    export: Path
    """Directory that export wrote: of a whole table, or of what changed since the one that was pushed before."""
    to: DestinationKind
    """Qdrant (extra `qdrant`), or PostgreSQL with the extension vector (extra `pgvector`)."""
    url: str
    """Of the server: `http://localhost:6333` (a key in QDRANT_API_KEY), or `postgresql://user@host/database` (the
    password in PGPASSWORD or ~/.pgpass). For Qdrant also a directory, which its client opens without a server."""
    name: str = "skipwise"
    """Collection or table; it is made where it is not there."""
    alias: str = ""
    """Alias of the collection, or view of the table, that is turned to it once all rows are there."""
    batch: int = 1000
    """Rows that are sent at a time."""

    def __post_init__(self) -> None:
        for option, name in (("name", self.name), ("alias", self.alias)):
            if (name or option == "name") and not re.fullmatch(_NAME, name, re.ASCII):
                raise ValueError(
                    f"--{option} {name!r} must be 1 to 63 letters, digits, _ and -, and begin with a letter or _"
                )
        if self.alias == self.name:
            raise ValueError(f"--alias {self.alias} is --name too: give another name to one of the two")
        if not 1 <= self.batch <= 100_000:
            raise ValueError(f"--batch {self.batch} must lie in 1..100000")
        try:
            parts = urlsplit(self.url)
            secret = (
                parts.password is not None or "password" in parse_qs(parts.query) or "api_key" in parse_qs(parts.query)
            )
        except ValueError as error:
            raise ValueError(f"--url cannot be read ({error}): expected a URL such as http://localhost:6333") from None
        if secret:
            raise ValueError(
                "--url holds a password, which others would see in the list of processes: leave it out, and set "
                "PGPASSWORD or QDRANT_API_KEY"
            )
        schemes = {"qdrant": ("http", "https", ""), "pgvector": ("postgresql", "postgres")}[self.to]
        if parts.scheme not in schemes or not self.url:
            wanted = " or ".join(f"{scheme}://..." if scheme else "a directory" for scheme in schemes)
            raise ValueError(f"--url {self.url} is none of {self.to}: expected {wanted}")
