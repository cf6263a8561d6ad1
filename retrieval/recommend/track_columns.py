"""What tracks are chosen by: the columns of an export and of a table beside it, and the rows that meet a filter.

Shape legend: R rows of the export, N values of a column, B sessions, T tracks of each, X rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.common.errors import UserError, brief, shown
from skipwise.common.mirrors import local
from skipwise.common.tables import read_table
from skipwise.datapipes.nested import is_list
from skipwise.datapipes.session_files import DAMAGED
from skipwise.retrieval.recommend.track_filter import TRACK, Condition, TrackFilter, Value
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.track_ids import TrackIds

ARTIST = "artist"
"""The column that `cool_down` reads."""
_CACHED = 256
"""Conditions whose rows are kept, a bit for each row of the export."""
_CACHED_VALUES = 100
_CACHED_LISTS = 16
"""Of conditions with more values than these, and of lists of tracks: a request's list is looked up once."""


@dataclass(frozen=True)
class _Column:
    """The values that are known, in row order."""

    values: pa.Array
    """[N]"""
    rows_N: np.ndarray
    """int64; a row stands several times where the column holds lists."""
    num_rows: int

    @classmethod
    def of(cls, values: pa.Array) -> "_Column":
        """`values`: [R], null where not known. Raises `ValueError` for a type that no condition tests."""
        num_rows, rows_N = len(values), np.arange(len(values))
        if is_list(values.type):
            rows_N = pc.list_parent_indices(values).to_numpy(zero_copy_only=False).astype(np.int64)
            values = pc.list_flatten(values)
        known_N = values.is_valid().to_numpy(zero_copy_only=False)
        values = values.filter(pa.array(known_N))
        return cls(values.cast(_plain(values.type)), rows_N[known_N], num_rows)

    def allowed(self, condition: Condition) -> np.ndarray:
        """bool [R]. Raises `UserError` for a value of another kind than the column's."""
        wanted = self._typed(condition)
        match condition.test:
            case "from":
                found_N = pc.greater_equal(self.values, wanted[0])
            case "to":
                found_N = pc.less_equal(self.values, wanted[0])
            case _:
                found_N = pc.is_in(self.values, value_set=wanted)
        allowed_R = np.zeros(self.num_rows, dtype=bool)
        allowed_R[self.rows_N[found_N.to_numpy(zero_copy_only=False)]] = True
        return ~allowed_R if condition.test == "not" else allowed_R

    def _typed(self, condition: Condition) -> pa.Array:
        kind, values = self.values.type, condition.values
        try:
            if pa.types.is_large_string(kind):
                return pa.array([_as_text(value) for value in values], kind)
            flags = [isinstance(value, bool) for value in values]
            texts = [isinstance(value, str) for value in values]
            if pa.types.is_temporal(kind) and all(texts):
                return _times(pa.array(values, pa.string()), kind)
            if pa.types.is_boolean(kind) and all(flags) or pa.types.is_floating(kind) and not any(flags + texts):
                return pa.array(values, kind)
        except (pa.ArrowException, OverflowError, ValueError) as error:
            raise self._unfit(condition) from error
        raise self._unfit(condition)

    def _unfit(self, condition: Condition) -> UserError:
        kind = "text" if pa.types.is_large_string(self.values.type) else str(self.values.type)
        kind = {"bool": "true or false", "double": "numbers", "float": "numbers"}.get(kind, kind)
        said = shown([*condition.values])
        return UserError(
            f"filter of {shown(condition.column)} has {said}, and the column holds {kind}: give values of that kind"
        )


@dataclass(frozen=True)
class _Groups:
    """The rows of each artist, and the artists of each row, in arrays."""

    codes_N: np.ndarray
    rows_N: np.ndarray
    by_code_N: np.ndarray
    """`rows_N` by code."""
    starts: np.ndarray
    """Where each code's rows begin in `by_code_N`."""

    @classmethod
    def of(cls, column: _Column) -> "_Groups":
        coded = column.values.dictionary_encode()
        codes_N = coded.indices.to_numpy()
        starts = np.concatenate([[0], np.bincount(codes_N, minlength=len(coded.dictionary)).cumsum()])
        return cls(codes_N, column.rows_N, column.rows_N[np.argsort(codes_N, kind="stable")], starts)

    def rows_like(self, rows: np.ndarray) -> np.ndarray:
        """All rows that share an artist with one of `rows`."""
        left, right = (np.searchsorted(self.rows_N, rows, side) for side in ("left", "right"))
        codes = {*np.concatenate([self.codes_N[a:b] for a, b in zip(left, right, strict=True)]).tolist()}
        found = [self.by_code_N[self.starts[code] : self.starts[code + 1]] for code in codes]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


class TrackColumns:
    """The columns of one export's tracks. Safe to call from several threads."""

    def __init__(self, tracks: TrackIds, table: Path | None = None, always: TrackFilter = ()):
        """`table`: a Parquet file of `track_id` and other columns, which come before the export's of the same name.

        `always`: what every track must meet, beside a request's own filter. Raises `UserError` for a table that cannot
        be read, and for a filter that does not fit the columns.
        """
        self._tracks, self._always = tracks, always
        self._columns: dict[str, _Column | None] = dict.fromkeys(tracks.names)  # made when they are first asked for
        if table is not None:
            self._columns |= _read(table, tracks)
        self._bits = lru_cache(_CACHED)(self._bits_of)
        self._bits_of_many = lru_cache(_CACHED_LISTS)(self._bits_of)
        self.allowed(())

    @property
    def names(self) -> list[str]:
        """The columns that a filter may name, but for `track`."""
        return sorted(self._columns)

    def allowed(self, asked: TrackFilter) -> Allowed | None:
        """The rows that meet all conditions; None where there are none to meet.

        Raises `UserError` for a column that is not there, or a value that it cannot have.
        """
        conditions = self._always + asked
        if not conditions:
            return None
        bits = [
            (self._bits if len(one.values) <= _CACHED_VALUES and one.column != TRACK else self._bits_of_many)(one)
            for one in conditions
        ]
        return Allowed(reduce(np.bitwise_and, bits), len(self._tracks))

    def check(self, asked: TrackFilter, cool_down: int) -> None:
        """Raises `UserError` where one of the two does not fit the columns."""
        self.allowed(asked)
        if cool_down:
            _ = self._artists

    def cooling(self, rows_BT: np.ndarray, plays: int) -> np.ndarray:
        """int64 [B, X]: the rows that share an artist with one of a session's last `plays` tracks; -1 is padding.

        `rows_BT`: the sessions' rows, oldest first, padded by -1. Raises `UserError` where no artist is known.
        """
        groups = self._artists
        found = [groups.rows_like(rows_T[rows_T >= 0][-plays:]) for rows_T in rows_BT]
        rows_BX = np.full((len(found), max(map(len, found), default=0)), -1, dtype=np.int64)
        for rows_X, rows in zip(rows_BX, found, strict=True):
            rows_X[: len(rows)] = rows
        return rows_BX

    @cached_property
    def _artists(self) -> _Groups:
        return _Groups.of(self._column(ARTIST))

    def _bits_of(self, condition: Condition) -> np.ndarray:
        if condition.column == TRACK:
            return Allowed.of(self._listed(condition)).bits
        return Allowed.of(self._column(condition.column).allowed(condition)).bits

    def _listed(self, condition: Condition) -> np.ndarray:
        """bool [R], of a list of track ids; those that the export does not have are passed over."""
        if condition.test not in ("in", "not") or not all(isinstance(one, str) for one in condition.values):
            said = f"{condition.test!r} of {shown([*condition.values])}"
            raise UserError(f"filter of {TRACK!r} is {said}: list track ids, or give such a list for 'not'")
        rows = np.array(self._tracks.rows_of([str(one) for one in condition.values]), dtype=np.int64)
        allowed_R = np.full(len(self._tracks), condition.test == "not")
        allowed_R[rows[rows >= 0]] = condition.test == "in"
        return allowed_R

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            known = ", ".join([TRACK, *self.names])
            raise UserError(
                f"the tracks have no column {shown(name)}: they have {known}; name a Parquet file of more with --tracks"
            )
        column = self._columns[name]
        if column is None:
            column = self._columns[name] = _Column.of(self._tracks.names[name])
        return column


def _read(table: Path, tracks: TrackIds) -> Mapping[str, _Column]:
    """The columns of the file, in the order of the export's rows."""
    remedy = "expected a Parquet file of track_id and other columns"
    try:
        found = read_table(local(table))
    except DAMAGED as error:
        raise UserError(f"--tracks {table} cannot be read ({brief(error)}): {remedy}") from error
    if found.column_names.count("track_id") != 1 or len({*found.column_names}) < found.num_columns:
        raise UserError(f"--tracks {table} has the columns {shown(found.column_names)}: {remedy}, each once")
    try:
        ids = found["track_id"].combine_chunks().cast(pa.large_string())
    except pa.ArrowException as error:
        raise UserError(f"--tracks {table} has track ids that are no text ({brief(error)}): {remedy}") from error
    if ids.null_count:
        row = int(ids.is_null().to_numpy(zero_copy_only=False).argmax())
        raise UserError(f"--tracks {table}, row {row} (counted from 0), has no track_id: remove it")
    rows_N = tracks.rows(ids)
    place_R = np.full(len(tracks), -1, dtype=np.int64)
    known = np.flatnonzero(rows_N >= 0)
    place_R[rows_N[known]] = known
    if (twice := place_R[rows_N[known]] != known).any():
        raise UserError(f"--tracks {table} has {shown(ids[int(known[twice.argmax()])].as_py())} in two rows: leave one")
    if not len(known):
        raise UserError(f"--tracks {table} has none of the export's {len(tracks):,} tracks: give their ids in track_id")
    places = pa.array(place_R, mask=place_R < 0)
    columns = {}
    for name in found.column_names:
        if name == TRACK:
            raise UserError(f"--tracks {table} has a column {TRACK!r}, which stands for the track id: rename it")
        if name == "track_id":
            continue
        try:
            values = found[name].combine_chunks()
            values.validate(full=True)
            if values.type == pa.string_view():  # which Arrow does not take from
                values = values.cast(pa.large_string())
            columns[name] = _Column.of(values.take(places))
        except (pa.ArrowException, ValueError) as error:
            remedy = "" if "not in range" not in str(error) else ": write whole numbers beyond 2^53 as text"
            raise UserError(
                f"--tracks {table}: column {shown(name)} cannot be read ({brief(error)}){remedy}"
            ) from error
    return columns


def _plain(kind: pa.DataType) -> pa.DataType:
    """What values of this type are compared as."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind in (pa.string(), pa.large_string(), pa.string_view()) or kind == pa.null():
        return pa.large_string()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return kind if pa.types.is_float32(kind) else pa.float64()  # 0.1 is another number in each of the two
    if pa.types.is_boolean(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return kind
    raise ValueError(f"it is {kind}: expected text, flags, numbers, dates or times, or lists of them")


def _times(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """As dates or times; those without a zone are of UTC where the column has one."""
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if not pa.types.is_timestamp(kind) or kind.tz is None:
            raise
        return texts.cast(pa.timestamp(kind.unit)).cast(kind)


def _as_text(value: Value) -> str:
    """As Arrow writes flags and whole numbers as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
