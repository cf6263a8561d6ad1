"""Row groups of a session file, and the checks that find a damaged one.

Parquet has no checksum by default, and a page checksum covers neither page headers nor the footer. So the decoded
values are checked.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.common.errors import UserError, brief
from skipwise.common.files import require_regular_file

_SCHEMA = pa.schema({"tracks": pa.list_(pa.int32()), "skips": pa.list_(pa.int8())})
STRENGTHS = 3
"""The greatest skip strength."""
DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)
"""What Arrow raises for a damaged file."""


class Rows(NamedTuple):
    """Sessions of a row group, flat."""

    lengths: np.ndarray
    """int64 [sessions]."""
    tracks: np.ndarray
    """int32 [plays]."""
    skips: np.ndarray
    """int8 [plays]."""


def sizes(file: Path) -> list[int]:
    """Returns the number of sessions of each row group; raises `UserError` for a damaged file."""
    try:
        require_regular_file(file)
        metadata = pq.read_metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except DAMAGED as error:
        raise UserError(f"{file} cannot be read ({brief(error)}): run prepare again") from error


def read(file: Path, group: int) -> Rows:
    """Returns the sessions of one row group; raises `UserError` unless they are lists of rows and strengths."""
    where = f"{file}, row group {group}"
    try:
        require_regular_file(file)
        with pq.ParquetFile(file) as parquet:
            table = parquet.read_row_group(group, columns=_SCHEMA.names, use_threads=False)
        table = table.select(_SCHEMA.names)
        for field in table.schema:
            wanted = _SCHEMA.field(field.name).type
            # By its values' type: the name that a writer gave to a list's values says nothing.
            if not pa.types.is_list(field.type) or field.type.value_type != wanted.value_type:
                raise TypeError(f"column '{field.name}' is {field.type}, expected {wanted}")
        table.validate(full=True)
        tracks, skips = (column.combine_chunks() for column in table.columns)
    except DAMAGED as error:
        raise UserError(f"{where}: cannot be read ({brief(error)}): run prepare again") from error
    values = [tracks.flatten(), skips.flatten()]
    if any(column.null_count for column in (tracks, skips, *values)):
        raise UserError(f"{where}: 'tracks' or 'skips' has a null: expected a number everywhere; run prepare again")
    lengths = tracks.value_lengths()
    if not lengths.equals(skips.value_lengths()):
        raise UserError(f"{where}: a session has another number of skips than of tracks: run prepare again")
    return Rows(lengths.to_numpy().astype(np.int64), *(column.to_numpy() for column in values))


def refuse_faults(rows: Rows, num_tracks: int, shortest: int, longest: int, where: str) -> None:
    """Raises `UserError` for rows from `num_tracks`, lengths outside `shortest` to `longest`, and unknown strengths."""
    for what, values, least, most in (
        ("the length of a session", rows.lengths, shortest, longest),
        ("a track row", rows.tracks, 0, num_tracks - 1),
        ("a skip strength", rows.skips, 0, STRENGTHS),
    ):
        if len(values) and not (least <= values.min() and values.max() <= most):
            raise UserError(f"{where}: {what} lies outside {least}..{most}: run prepare again")


def checksum(rows: Rows) -> str:
    """Returns the CRC-32, in 8 hexadecimal digits, of a row group's lengths (as int32), tracks and skips."""
    crc = 0
    for values, kind in zip(rows, ("<i4", "<i4", "i1"), strict=True):
        crc = zlib.crc32(np.ascontiguousarray(values, kind).data, crc)
    return f"{crc:08x}"
