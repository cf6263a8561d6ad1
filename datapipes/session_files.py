"""Row groups of a session file, and the checks that find a damaged one.

Parquet has no checksum by default, and a page checksum covers neither page headers nor the footer. So the decoded
values are checked.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import MOST_IN_GROUP, open_table
from skipwise.datapipes.signals import UNKNOWN

PROFILE = "profile"
"""The column of what a session's listener kept in the sessions before."""
_SCHEMA = pa.schema({"tracks": pa.list_(pa.int32()), "skips": pa.list_(pa.int8())})
AGES = "track_age"
"""The column of whole hours from the first play of the track in the log to a play, where plays have times."""
STRENGTHS = 3
"""The greatest skip strength."""
MOST_VALUES = 1000
"""Of a context column: a model has a row for each."""
DAMAGED = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError)
"""What Arrow raises for a damaged file."""


class Rows(NamedTuple):
    """Sessions of a row group, flat."""

    lengths: np.ndarray
    """int64 [sessions]."""
    tracks: np.ndarray
    """int32 [plays]."""
    skips: np.ndarray
    """int8 [plays]: skip strengths, or `UNKNOWN`."""


class Lists(NamedTuple):
    """A list of rows for each session of a row group, flat."""

    lengths: np.ndarray
    """int64 [sessions]."""
    rows: np.ndarray
    """int32."""

    @classmethod
    def of(cls, column: pa.ListArray) -> "Lists":
        """Raises `ValueError` for a null."""
        values = column.flatten()
        if not pa.types.is_list(column.type) or values.type != pa.int32() or column.null_count or values.null_count:
            raise ValueError(f"a column is {column.type} or has a null, expected lists of rows")
        return cls(column.value_lengths().to_numpy().astype(np.int64), values.to_numpy())


def sizes(file: Path) -> list[tuple[int, int]]:
    """Returns the number of sessions and of plays of each row group, by the footer; raises `UserError` for a damaged
    file."""
    try:
        with open_table(file) as table:
            return [(rows, table.values(group)["tracks"]) for group, rows in enumerate(table.group_rows)]
    except DAMAGED as error:
        raise UserError(f"{file} cannot be read ({brief(error)}): run prepare again") from error


def read(file: Path, group: int, most: int = MOST_IN_GROUP) -> Rows:
    """Returns the sessions of one row group, `most` plays or fewer; raises `UserError` unless they are lists of rows
    and strengths."""
    where = f"{file}, row group {group}"
    try:
        with open_table(file) as opened:
            table = opened.group(group, _SCHEMA.names, most)
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


def read_contexts(file: Path, group: int, names: Sequence[str], most: int = MOST_IN_GROUP) -> dict[str, pa.StringArray]:
    """Returns what one row group says of its plays in these context columns, as text, flat, null where it says nothing.

    Raises `UserError` unless each column is as long as the tracks.
    """
    try:
        with open_table(file) as opened:
            table = opened.group(group, ["tracks", *names], most)
        lengths = table["tracks"].combine_chunks().value_lengths()
        columns = {name: table[name].combine_chunks() for name in names}
        if not all(column.value_lengths().equals(lengths) for column in columns.values()):
            raise ValueError("a context column is not as long as the tracks")
        return {name: column.flatten().cast(pa.string()) for name, column in columns.items()}
    except (*DAMAGED, AttributeError) as error:
        raise UserError(f"{file}, row group {group}: cannot be read ({brief(error)}): run prepare again") from error


def read_profiles(file: Path, group: int, sessions: int, most: int) -> Lists:
    """Returns the profiles of a row group; raises `UserError` unless each of its sessions has `most` rows or fewer."""
    try:
        with open_table(file) as opened:
            lists = Lists.of(opened.group(group, [PROFILE], sessions * max(most, 1))[PROFILE].combine_chunks())
        if len(lists.lengths) != sessions or lists.lengths.max(initial=0) > most:
            raise ValueError(f"expected a profile of {most} rows or fewer for each of {sessions} sessions")
    except DAMAGED as error:
        raise UserError(f"{file}, row group {group}: cannot be read ({brief(error)}): run prepare again") from error
    return lists


class Words(NamedTuple):
    """A context column, each of its words once."""

    words: list[str]
    """In the order in which they first occur."""
    place_P: np.ndarray
    """int32 [plays]: the place among them of each play's word, -1 for none."""

    @classmethod
    def of(cls, values: pa.Array) -> "Words":
        """Of what `read_contexts` returns, or of values that are no texts yet."""
        encoded = values.dictionary_encode()
        return cls(encoded.dictionary.cast(pa.string()).to_pylist(), encoded.indices.fill_null(-1).to_numpy())

    @property
    def checksum(self) -> str:
        """The CRC-32, in 8 hexadecimal digits, of words and places."""
        crc = zlib.crc32(json.dumps(self.words).encode())
        return f"{zlib.crc32(np.ascontiguousarray(self.place_P, '<i4').data, crc):08x}"

    def codes(self, values: Sequence[str]) -> np.ndarray:
        """uint16 [plays]: the place among `values`, from 1, of each play's word; 0 for none and for any other word."""
        code_of = {value: code for code, value in enumerate(values, 1)}
        # The last one is of no word: -1 is its place.
        return np.array([*(code_of.get(word, 0) for word in self.words), 0], dtype=np.uint16)[self.place_P]


def refuse_faults(rows: Rows, num_tracks: int, shortest: int, longest: int, where: str) -> None:
    """Raises `UserError` for rows from `num_tracks`, lengths outside `shortest` to `longest`, and unknown strengths."""
    for what, values, least, most in (
        ("the length of a session", rows.lengths, shortest, longest),
        ("a track row", rows.tracks, 0, num_tracks - 1),
        ("a skip strength", rows.skips, UNKNOWN, STRENGTHS),
    ):
        if len(values) and not (least <= values.min() and values.max() <= most):
            raise UserError(f"{where}: {what} lies outside {least}..{most}: run prepare again")


def checksum(rows: Rows | Lists) -> str:
    """Returns the CRC-32, in 8 hexadecimal digits, of a row group's lengths (as int32), tracks and skips."""
    crc = 0
    for values, kind in zip(rows, ("<i4", "<i4", "i1"), strict=False):
        crc = zlib.crc32(np.ascontiguousarray(values, kind).data, crc)
    return f"{crc:08x}"
