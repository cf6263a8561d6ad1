"""A table's rows, and their codes, in files that several processes map, so that they are in memory once.

The files are private to these processes, written whole and never changed: an export's own files may be cut short by
others while they are mapped, and whoever touches such a page is killed by SIGBUS.

Shape legend: R rows, W numbers of an encoded row.
"""

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.common.files import replacing
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.formats import SCALE_BIAS_BYTES
from skipwise.retrieval.vectors import Piece

_folder: Path | None = None


def share_in(folder: Path) -> None:
    """From now on this process maps the tables that it opens from files of `folder`."""
    global _folder
    _folder = folder


def table_name(manifest: ExportManifest) -> str:
    """A name that only tables of the same content have."""
    parts = [manifest.dtype, manifest.dim, *(part.sha256 for part in manifest.parts)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def in_one_piece(manifest: ExportManifest, pieces: Iterator[Piece]) -> list[Piece]:
    """All rows of an export in one piece, which is faster to take from than several.

    `pieces` are read unless another process has put them into the shared folder. What is written to the rows is seen by
    this process alone. Raises `UserError` where the folder has no room.
    """
    int8 = manifest.dtype == "int8"
    dtype, width = np.dtype(np.uint8 if int8 else manifest.dtype), manifest.dim + SCALE_BIAS_BYTES * int8
    if _folder is None or not manifest.rows:
        table_RW = np.empty((manifest.rows, width), dtype)
        for piece in pieces:
            table_RW[piece.first : piece.first + len(piece.encoded)] = piece.encoded
        pa.default_memory_pool().release_unused()  # some hundred MB that reading left
        return [Piece(0, table_RW, manifest.dtype)]
    mapped_RW = _mapped(table_name(manifest), dtype, (manifest.rows, width), lambda file: _write(file, pieces))
    pa.default_memory_pool().release_unused()
    return [Piece(0, mapped_RW, manifest.dtype)]


def shared_bytes(name: str, size: int, used: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """uint8 [size]: what `make` returns, made by one of the processes; bytes from `used` on are of any value.

    Made for this process alone where it shares no folder, where `name` is empty, and where the folder has no room. What
    is written to it is seen by this process alone.
    """
    if _folder is None or not name:
        return make()
    made: list[np.ndarray] = []

    def write(file: Path) -> None:
        made.append(make())
        with open(file, "wb") as stream:
            stream.write(made[0][:used].data)
            stream.truncate(size)

    try:
        return _mapped(name, np.dtype(np.uint8), (size,), write)
    except OSError:
        return made[0] if made else make()


def _mapped(name: str, dtype: np.dtype, shape: tuple[int, ...], write: Callable[[Path], None]) -> np.ndarray:
    """The content of the shared file of this name, copied where it is written to; `write` makes it where it is not
    there."""
    assert _folder
    file = _folder / f"{name}.rows"
    with _alone(_folder):
        if not file.exists():
            with replacing(file) as partial:
                try:
                    write(partial)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
        with open(file, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)  # lasts as long as the map, which keeps the descriptor
            return np.memmap(stream, dtype, "c", shape=shape)


def _write(file: Path, pieces: Iterator[Piece]) -> None:
    with open(file, "wb") as stream:
        for piece in pieces:
            encoded_RW = np.ascontiguousarray(piece.encoded)
            try:
                stream.seek(piece.first * encoded_RW.itemsize * encoded_RW.shape[1])
                stream.write(encoded_RW.data.cast("B"))
                stream.flush()
            except OSError as error:
                raise UserError(
                    f"{file.parent} cannot take the table ({error.strerror}): make room there, name a folder "
                    "elsewhere in TMPDIR, or serve with --workers 1"
                ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_unused() -> None:
    """Removes the shared files that no process maps any more."""
    if _folder is None:
        return
    with _alone(_folder):
        for file in _folder.glob("*.rows"):
            with open(file, "rb") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                file.unlink()
