"""One rank's rows as files of an export: written block by block, read back and compared to the last bit."""

from collections.abc import Callable
from pathlib import Path

from skipwise.common.errors import UserError, brief
from skipwise.datapipes.session_files import DAMAGED
from skipwise.retrieval.export import faiss_part, npy_part, parquet_part
from skipwise.retrieval.export.live import LiveRows
from skipwise.retrieval.formats import Kind

_FORMATS = {"parquet": parquet_part, "npy": npy_part, "faiss": faiss_part}


def part_name(rank: int, kind: Kind) -> str:
    """The part of a rank; names sort in row order."""
    return f"embeddings/part-{rank:05}.{kind.format}"


def tracks_name(rank: int) -> str:
    """The track ids of a part that cannot hold them."""
    return f"tracks/part-{rank:05}.parquet"


def write_part(file: Path, rows: LiveRows, kind: Kind) -> None:
    """Writes the rows; raises `UserError` for one that is not finite, or that `kind` cannot hold."""
    _FORMATS[kind.format].write(file, rows, kind.dtype)


def check_part(file: Path, rows: LiveRows, kind: Kind) -> None:
    """Raises `UserError` unless the part holds the live rows, or their conversion, bit for bit.

    A Parquet part's ids and numbers are compared too; and converted rows must be as near to the live ones as rounding
    leaves them.
    """
    _check(file, lambda: _FORMATS[kind.format].check(file, rows, kind.dtype))


def write_tracks(file: Path, rows: LiveRows) -> None:
    """Writes the ids and the numbers of the rows alone."""
    parquet_part.write(file, rows, None)


def check_tracks(file: Path, rows: LiveRows) -> None:
    """Raises `UserError` unless the file holds the rows' ids and numbers."""
    _check(file, lambda: parquet_part.check(file, rows, None))


def _check(file: Path, same: Callable[[], bool]) -> None:
    try:
        if same():
            return
    except (*DAMAGED, RuntimeError) as error:  # FAISS raises the last
        reason = brief(error)
        raise UserError(f"{file.name} cannot be read back ({reason}): check the disk, then export again") from error
    raise UserError(f"{file.name} read back differs from the model's table: check the disk, then export again")
