"""A table of sessions, from a file or from Python: its columns, and each of their values, checked.

Shape legend: S sessions of a chunk, P plays of them, B sessions of a batch, K context columns, N tracks of a profile.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError, brief, shown
from skipwise.datapipes.nested import bytes_of, flat, is_list
from skipwise.datapipes.session_files import PROFILE, STRENGTHS, Words
from skipwise.datapipes.signals import UNKNOWN
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import MAX_PLAYS, Unknown
from skipwise.retrieval.recommend.recommender import SessionHistory

COLUMNS = ("tracks", "skips", "session_id")


def names_of(opened: OpenExport) -> list[str]:
    """The columns of sessions that this export reads, or refuses by their name."""
    return [*COLUMNS, *(column.name for column in opened.contexts), PROFILE]


@dataclass(frozen=True)
class Sessions:
    """Sessions in the table's order, flat, without their unknown tracks."""

    ids: dict[str, pa.Array]
    """`session_id`, unchanged; empty without that column."""
    lengths_S: np.ndarray
    """int64; 0 where all tracks are unknown."""
    rows_P: np.ndarray
    """int64."""
    strengths_P: np.ndarray
    """int8: skip strengths, `UNKNOWN` where they are null, and without the column `skips`."""
    contexts_PK: np.ndarray
    """uint16: codes of the context columns that the model reads, 0 for what is not known."""
    profile_SN: np.ndarray
    """int64: rows of what the listener kept before, the last ones first, -1 behind them."""
    num_unknown: int
    """Tracks that were left out."""

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, SessionHistory]]:
        """The sessions that are not empty, at most `size` at a time: their numbers [B] and their plays.

        Sessions of similar length go together, because the encoder also computes on padding.
        """
        starts_S = self.lengths_S.cumsum() - self.lengths_S
        order = np.argsort(self.lengths_S, kind="stable")
        order = order[self.lengths_S[order] > 0]
        for start in range(0, len(order), size):
            chosen_B = order[start : start + size]
            lengths_B = self.lengths_S[chosen_B]
            within = np.arange(lengths_B.sum()) - np.repeat(lengths_B.cumsum() - lengths_B, lengths_B)
            plays = np.repeat(starts_S[chosen_B], lengths_B) + within
            rows_P, strengths_P, contexts_PK = self.rows_P[plays], self.strengths_P[plays], self.contexts_PK[plays]
            profile_BN = self.profile_SN[chosen_B]
            yield chosen_B, SessionHistory.flat(lengths_B, rows_P, strengths_P, contexts_PK, profile_BN)


class SessionColumns:
    """The columns `tracks` and, where the table has them, `skips`, `session_id`, and the context columns and `profile`
    that the model reads."""

    def __init__(self, source: str, schema: pa.Schema, opened: OpenExport, names: bool = False):
        """`source` names the table in messages; `names`: what tracks are called is wanted too.

        Raises `UserError` for a column that is missing or of another type.
        """
        self._source, self._opened = source, opened
        self.names = [name for name in names_of(opened) if name in schema.names]
        for name in self.names:
            if schema.names.count(name) > 1:
                raise UserError(f"{source} has more than one column '{name}': leave one")
        if "tracks" not in self.names:
            raise UserError(f"{source} has no column 'tracks': expected a list of track ids in each row")
        self._check_lists(schema, "tracks", "track ids", _is_id)
        if "skips" in self.names:
            self._check_lists(schema, "skips", f"true or false, or strengths 0..{STRENGTHS}", _is_skip)
        if PROFILE in self.names:
            if not opened.profile:
                raise UserError(
                    f"{source} has a column '{PROFILE}', and {opened.path} reads no profile: leave it out, or export a "
                    "run that was trained with --data.profile"
                )
            self._check_lists(schema, PROFILE, "track ids", _is_id)
        for column in opened.contexts:
            if column.name in self.names:
                self._check_lists(schema, column.name, "words, whole numbers or flags", _is_word)
        self._ids = {name: schema.field(name).type for name in self.names if name == "session_id"}
        for name, kind in self._ids.items():
            if pa.types.is_nested(kind):
                raise UserError(f"{source}: column '{name}' is {brief(kind)}: expected one value in each row")
        lists = {"tracks": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
        if opened.manifest.keep:
            lists["kept"] = pa.list_(pa.float32())
        if names and not opened.tracks.names:
            raise UserError(
                f"{opened.path} does not say what its tracks are called: leave names (--names) out, or prepare its log "
                "with --title and export the run again with --names of that dataset"
            )
        lists |= dict.fromkeys(opened.tracks.names if names else (), pa.list_(pa.string()))
        self.ranked = pa.schema(self._ids | lists)
        """The columns of recommendations for these sessions."""

    def _check_lists(self, schema: pa.Schema, name: str, wanted: str, fits: Callable[[pa.DataType], bool]) -> None:
        kind = schema.field(name).type
        of = kind.value_type if is_list(kind) else None
        if of is None or not fits(of.value_type if pa.types.is_dictionary(of) else of):
            raise UserError(f"{self._source}: column '{name}' is {brief(kind)}: expected lists of {wanted}")

    def read(self, batches: Iterable[pa.RecordBatch], unknown: Unknown) -> Iterator[Sessions]:
        """The sessions of each batch of the table. Raises `UserError` for a value, naming its row."""
        first = 0
        for batch in batches:
            yield self._sessions(first, batch, unknown)
            first += len(batch)

    def _sessions(self, first: int, batch: pa.RecordBatch, unknown: Unknown) -> Sessions:
        lengths_S, tracks_P = self._lists(first, batch, "tracks")
        self._refuse(first, lengths_S == 0, "tracks", "is an empty session: leave such rows out")
        self._refuse(first, lengths_S > MAX_PLAYS, "tracks", f"has more than {MAX_PLAYS} tracks: cut it")
        strengths_P = np.full(len(tracks_P), UNKNOWN, dtype=np.int8)
        if "skips" in self.names:
            skip_lengths_S, skips_P = self._lists(first, batch, "skips", nulls=True)
            self._refuse(first, skip_lengths_S != lengths_S, "skips", "has not as many values as 'tracks'")
            known_P = skips_P.is_valid().to_numpy(zero_copy_only=False)
            skips_P = skips_P.cast(pa.int8()) if skips_P.type == pa.null() else skips_P
            strengths_P = skips_P.fill_null(pa.scalar(0).cast(skips_P.type)).to_numpy(zero_copy_only=False)
            if strengths_P.dtype == bool:
                strengths_P = self._opened.view.strengths(strengths_P)
            self._refuse_play(
                first,
                (strengths_P < 0) | (strengths_P > STRENGTHS),
                lengths_S,
                "skips",
                f"is a strength outside 0..{STRENGTHS}",
            )
            strengths_P = np.where(known_P, strengths_P, UNKNOWN)
        contexts_PK = self._contexts(first, batch, lengths_S)
        rows_P = self._rows(first, tracks_P, lengths_S, "tracks", unknown)
        known_P = rows_P >= 0
        session_P = np.repeat(np.arange(len(lengths_S)), lengths_S)[known_P]
        lengths_S = np.bincount(session_P, minlength=len(lengths_S))
        ids = {name: batch[name] for name in self._ids}
        plays = rows_P[known_P], strengths_P[known_P], contexts_PK[known_P]
        profile_SN, num_unknown = self._profiles(first, batch, unknown)
        return Sessions(ids, lengths_S, *plays, profile_SN, int((~known_P).sum()) + num_unknown)

    def _rows(self, first: int, tracks_P: pa.Array, lengths_S: np.ndarray, name: str, unknown: Unknown) -> np.ndarray:
        """int64 [P]: the row of each track, -1 for one that is not in the export."""
        rows_P: np.ndarray = self._opened.tracks.rows(tracks_P)
        if unknown == "refuse" and not (rows_P >= 0).all():
            track = tracks_P[int((rows_P >= 0).argmin())].as_py()
            near = self._opened.tracks.near(track)
            meant = f" (perhaps {shown(near)} was meant)" if near else ""
            remedy = "remove it, or leave such tracks out with unknown=drop (--unknown drop)"
            trouble = f"holds {shown(track)}, which is not in the export{meant}: {remedy}"
            self._refuse(first, _any(rows_P < 0, lengths_S), name, trouble)
        return rows_P

    def _profiles(self, first: int, batch: pa.RecordBatch, unknown: Unknown) -> tuple[np.ndarray, int]:
        """int64 [S, N], as `Sessions` has them, of the tracks that are in the export; and how many are not."""
        most = self._opened.profile if PROFILE in self.names else 0
        profile_SN = np.full((len(batch), most), -1, dtype=np.int64)
        if not most:
            return profile_SN, 0
        lengths_S, tracks_P = self._lists(first, batch, PROFILE)
        rows_P = self._rows(first, tracks_P, lengths_S, PROFILE, unknown)
        known_P = rows_P >= 0
        session_P = np.repeat(np.arange(len(batch)), lengths_S)[known_P]
        counts_S = np.bincount(session_P, minlength=len(batch))
        # Counted from the last one, which is the first to be read.
        place_P = counts_S.cumsum()[session_P] - 1 - np.arange(len(session_P))
        read_P = place_P < most
        profile_SN[session_P[read_P], place_P[read_P]] = rows_P[known_P][read_P]
        return profile_SN, int((~known_P).sum())

    def _contexts(self, first: int, batch: pa.RecordBatch, lengths_S: np.ndarray) -> np.ndarray:
        """uint16 [P, K]."""
        codes_KP = np.zeros((len(self._opened.contexts), lengths_S.sum()), dtype=np.uint16)
        for codes_P, column in zip(codes_KP, self._opened.contexts, strict=True):
            if column.name in self.names:
                of_S, values_P = self._lists(first, batch, column.name, nulls=True)
                self._refuse(first, of_S != lengths_S, column.name, "has not as many values as 'tracks'")
                codes_P[:] = Words.of(values_P.cast(pa.string())).codes(column.values)
        return codes_KP.T

    def _lists(self, first: int, batch: pa.RecordBatch, name: str, nulls: bool = False) -> tuple[np.ndarray, pa.Array]:
        """Lengths int64 [S] and values [P], without nulls unless `nulls`; a damaged file may hold any bytes."""
        column = batch[name]
        column.validate(full=True)
        self._refuse(first, column.is_null().to_numpy(zero_copy_only=False), name, "is null")
        values, lengths_S = flat(column)
        assert lengths_S is not None
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if name in ("tracks", PROFILE) and not _is_text(values.type):
            values = bytes_of(values).cast(pa.string())
        nulls_P = values.is_null().to_numpy(zero_copy_only=False)
        self._refuse_play(first, nulls_P & (not nulls), lengths_S, name, "is null")
        return lengths_S, values

    def _refuse_play(self, first: int, wrong_P: np.ndarray, lengths_S: np.ndarray, name: str, trouble: str) -> None:
        """Names the place of the first wrong value in its list too."""
        wrong_S = _any(wrong_P, lengths_S)
        if wrong_S.any():
            place = int(wrong_P.argmax()) - int(lengths_S[: wrong_S.argmax()].sum())
            self._refuse(first, wrong_S, name, f"in place {place} {trouble}")

    def _refuse(self, first: int, wrong_S: np.ndarray, name: str, trouble: str) -> None:
        if wrong_S.any():
            row = first + int(wrong_S.argmax())
            raise UserError(f"{self._source}, row {row} (counted from 0): '{name}' {trouble}")


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind)) or kind in (pa.uuid(), pa.binary(16))


def _is_word(kind: pa.DataType) -> bool:
    return _is_text(kind) or _is_flag_or_strength(kind) or kind == pa.null()


def _is_flag_or_strength(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _is_skip(kind: pa.DataType) -> bool:
    return _is_flag_or_strength(kind) or bool(kind == pa.null())


def _any(wrong_P: np.ndarray, lengths_S: np.ndarray) -> np.ndarray:
    """bool [S]: the sessions that hold a wrong play."""
    counts = np.concatenate([[0], wrong_P.cumsum()])
    ends_S = lengths_S.cumsum()
    return counts[ends_S] > counts[ends_S - lengths_S]
