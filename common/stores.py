"""Object stores by URL (s3://bucket/folder), through pyarrow.fs: what is there, and files taken from and brought there.

What fails is tried again, longer and longer apart, unless another try cannot help. pyarrow.fs is imported where a URL
is used, and nowhere else.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from skipwise.common.errors import UserError, brief, reason

Result = TypeVar("Result")

_CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and log in or set AZURE_STORAGE_KEY",
    "abfs": "log in to the account",
    "hdfs": "log in with kinit",
}
"""What to do about an access that is refused, by the scheme of the URL."""
_OPTIONS = {"s3": "?allow_delayed_open=true", "gs": "?retry_limit_seconds=60"}
"""One request for a small object in place of three; a limit on tries, which is 15 minutes otherwise."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+([^/]*)/*(.*?)/*", re.DOTALL)
TRIES, FIRST_WAIT_S = 3, 2.0
"""How often a request is made, and how long before the second; each later wait is twice the one before. The libraries
of S3 and others do so too, for some 10 s each time, where they know that an answer is worth it."""
_PIECE = 8 << 20
_UNREACHED = re.compile("ACCESS_DENIED|FORBIDDEN|CREDENTIAL|ACCESS_KEY|SIGNATURE|TOKEN|HTTP status (400|401|403)", re.I)
_MISSING = re.compile("NO_SUCH|NOT_FOUND|not found|HTTP status 404", re.I)
_UNWRITTEN_NAME = {"", ".", ".."}


class Stored(NamedTuple):
    """What a store says of a file."""

    bytes: int
    changed: int
    """When it was written, in nanoseconds since 1970."""


class Place(NamedTuple):
    """What a URL names: a folder or a file of a bucket."""

    scheme: str
    host: str
    """The bucket, the container, or the name node."""
    key: str

    @classmethod
    def of(cls, path: str | Path) -> "Place | None":
        """Returns what a URL names, which may have lost a slash as a `Path`; None for a local path.

        Raises `UserError` for a URL without a bucket, or with a folder named "", "." or "..".
        """
        found = _URL.fullmatch(str(path))
        if not found or found[1] not in _CREDENTIALS:
            if str(path).endswith(":") and str(path)[:-1] in _CREDENTIALS:  # a `Path` of s3://
                raise UserError(f"{path}// is no URL of a folder or a file: expected {path}//bucket/folder")
            return None
        place = cls(*found.groups())
        if ":" in place.host.partition("@")[0] and "@" in place.host:
            raise UserError(
                f"a URL of {place.scheme}:// has a password in it: leave it out, and {_CREDENTIALS[place.scheme]}"
            )
        if not place.host or (place.key and _UNWRITTEN_NAME & {*place.key.split("/")}):
            raise UserError(f"{place} is no URL of a folder or a file: expected {place.scheme}://bucket/folder")
        return place

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "Place":
        return self._replace(key=f"{self.key}/{name}".strip("/")) if name else self

    def require_key(self) -> None:
        """Raises `UserError` for a whole bucket, in which an output could take the place of other things."""
        if not self.key:
            raise UserError(f"{self} is a whole bucket: name a folder or a file in it")

    def files(self) -> dict[str, Stored]:
        """Returns what lies at or below it, by the path from here; "" is the place itself, where that is a file.

        Hidden names are left out. Raises `UserError` for a name that is no path of a file below it.
        """
        from pyarrow.fs import FileSelector, FileType

        filesystem, path = _filesystem(self.scheme, self.host), self._path

        def look() -> list[Any]:
            found = filesystem.get_file_info(path)
            if found.type == FileType.Directory:
                return list(filesystem.get_file_info(FileSelector(path, recursive=True)))
            return [found]

        listed = {
            info.path[len(path) :].lstrip("/"): Stored(info.size, info.mtime_ns or 0)
            for info in _patiently(self, look)
            if info.type == FileType.File
        }
        for name in filter(None, listed):
            if _UNWRITTEN_NAME & {*name.split("/")} or "\0" in name:
                raise UserError(f"{self} holds {name!r}, which cannot be a file here: rename it")
        return {name: stored for name, stored in listed.items() if not is_hidden(name)}

    def fetch(self, target: Path, partial: Path, advance: Callable[[int], object] = lambda done: None) -> None:
        """Copies the file here to `target` by one rename of `partial`; raises `FileNotFoundError` where it is gone."""
        filesystem, path = _filesystem(self.scheme, self.host), self._path

        def copy() -> None:
            with filesystem.open_input_stream(path, compression=None) as source:
                with writing(self, partial):
                    file = open(partial, "wb", buffering=0)  # closing it then fails no more
                with file:
                    while piece := source.read(_PIECE):
                        with writing(self, partial):
                            rest = memoryview(piece)
                            while rest:
                                rest = rest[file.write(rest) :]
                        advance(len(piece))

        _patiently(self, copy, missing=FileNotFoundError)
        with writing(self, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, target)

    def beginning(self, size: int) -> bytes:
        """Returns the first bytes of the file here, `size` at most; raises `FileNotFoundError` where it is gone."""
        filesystem, path = _filesystem(self.scheme, self.host), self._path

        def read() -> bytes:
            with filesystem.open_input_stream(path, compression=None) as source:
                return bytes(source.read(size))

        return _patiently(self, read, missing=FileNotFoundError)

    def put(self, file: Path, advance: Callable[[int], object] = lambda done: None) -> None:
        """Copies a local file here. Where that fails no part of it is left."""
        filesystem, path = _filesystem(self.scheme, self.host), self._path

        def copy() -> None:
            if self.scheme == "hdfs":
                filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
            whole = False
            try:
                with open(file, "rb") as source, filesystem.open_output_stream(path, compression=None) as target:
                    while piece := source.read(_PIECE):
                        target.write(piece)
                        advance(len(piece))
                    whole = True
            except BaseException:
                if not whole:
                    with suppress(Exception):  # the first error is the one to report
                        filesystem.delete_file(path)  # closing the stream has published what was written so far
                raise

        _patiently(self, copy, "written")

    def remove(self) -> None:
        """Removes the file here, which may be gone already."""
        filesystem, path = _filesystem(self.scheme, self.host), self._path
        with suppress(FileNotFoundError):
            _patiently(self, lambda: filesystem.delete_file(path), "removed", FileNotFoundError)

    @property
    def _path(self) -> str:
        """As pyarrow.fs names it."""
        container, _, account = self.host.rpartition("@")
        host = {"hdfs": "", "abfs": container}.get(self.scheme, account)
        return f"{host}/{self.key}".rstrip("/") or "/"


def schemes() -> str:
    """Returns how the URLs begin that are known."""
    return ", ".join(f"{scheme}://" for scheme in _CREDENTIALS)


def refuse_inner(place: object, names: Iterable[str]) -> None:
    """Raises `UserError` where one of the files of an output, by their paths in it, is the mark of another output."""
    if inner := next((name for name in names if name.endswith("/manifest.json")), None):
        raise UserError(f"{place} holds another output ({inner}), which would go with it: move one of them away")


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, has a name that begins with a dot: it is left where it is."""
    return any(part.startswith(".") for part in name.split("/"))


@contextmanager
def writing(place: Place, file: Path) -> Iterator[None]:
    """Makes the folder of `file`, and turns an `OSError` of the disk into a `UserError`, which is not tried again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{file}, the copy of {place}, cannot be written ({reason(error)}): free the disk, or name another folder "
            "with SKIPWISE_CACHE"
        ) from None


@cache
def _filesystem(scheme: str, host: str) -> Any:
    from pyarrow import fs

    def connect() -> Any:
        if scheme == "az":
            names = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_KEY")
            account, key = (os.environ.get(name) for name in names)
            if not account:
                raise UserError(f"az://{host} needs the account's name: {_CREDENTIALS['az']}")
            return fs.AzureFileSystem(account_name=account, account_key=key)
        return fs.FileSystem.from_uri(f"{scheme}://{host}/{_OPTIONS.get(scheme, '')}")[0]

    return _patiently(Place(scheme, host, ""), connect)


def _patiently(
    place: Place, request: Callable[[], Result], done: str = "read", missing: type[Exception] | None = None
) -> Result:
    """Makes a request until it succeeds, `TRIES` times at most.

    Raises a `UserError` that says what to do about the last error, or `missing` for a file that is not there.
    """
    from pyarrow import ArrowException

    for number in range(TRIES):
        try:
            return request()
        except (OSError, ValueError, NotImplementedError, ImportError, ArrowException) as error:
            said = brief(error)
            if isinstance(error, FileNotFoundError) or _MISSING.search(said):
                if missing:
                    raise missing(str(place)) from None
                raise UserError(f"{place} does not exist ({said}): check the URL") from None
            if _UNREACHED.search(said):
                raise UserError(
                    f"{place} is refused ({said}): {_CREDENTIALS[place.scheme]}, of somebody who may have it {done}"
                ) from None
            if "libhdfs" in said:
                raise UserError(
                    f"{place} needs the client of Hadoop ({said}): install it, and set ARROW_LIBHDFS_DIR and CLASSPATH"
                ) from None
            if not isinstance(error, OSError) or number == TRIES - 1:
                tries = f" in {TRIES} tries" if number else ""
                raise UserError(
                    f"{place} cannot be {done}{tries} ({said}): check the URL and the connection, and run this again"
                ) from None
            time.sleep(FIRST_WAIT_S * 2**number)
    raise AssertionError("a last try returns or raises")
