"""Recommendations by track id, from one export: what `skipwise.load` returns, and the commands call.

Shape legend: S sessions, P plays of them, B sessions of a batch, D width, K best.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError, shown
from skipwise.retrieval.find_tracks import find_tracks
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import (
    Dial,
    Exclude,
    Likeness,
    RecommendOptions,
    Unknown,
    check_dial,
    check_k,
)
from skipwise.retrieval.recommend.recommender import Recommender
from skipwise.retrieval.recommend.session_columns import SessionColumns, Sessions, names_of
from skipwise.retrieval.recommend.session_frames import is_one_session, like, to_table, with_profile
from skipwise.retrieval.recommend.session_text import known_row
from skipwise.retrieval.recommend.track_columns import TrackColumns
from skipwise.retrieval.search.config import SearchChoice
from skipwise.retrieval.search.exact import Search
from skipwise.retrieval.search.stored import open_search

_CHUNK = 1 << 14
"""Sessions whose track ids are looked up together."""
_BATCH = 512
"""Sessions that are encoded and searched for together."""
Ranked = list[tuple[str, float]]
"""(track id, score), best first."""


class TrackRecommender:
    """One open export. Safe to call from several threads."""

    def __init__(self, opened: OpenExport, search: Search, columns: TrackColumns | None = None):
        """`search` must be of `opened`, and `columns` too; see `load`."""
        self.opened, self.tracks = opened, opened.tracks
        self._recommender = Recommender(opened, search, columns)

    @classmethod
    def load(
        cls, export: str | Path, search: SearchChoice = "auto", tracks: str | Path | None = None
    ) -> "TrackRecommender":
        """Opens an export that `skipwise export` wrote, and its index if `search` says so.

        `tracks`: a Parquet file of `track_id` and columns to filter by. Reads every file once and compares the hashes
        of the export's. Raises `UserError` for an export that is incomplete or changed.
        """
        opened = OpenExport.open(Path(export))
        columns = TrackColumns(opened.tracks, None if tracks is None else Path(tracks))
        return cls(opened, open_search(opened, search), columns)

    def dial(self, setting: Dial) -> float:
        """The number that `setting` stands for; raises `UserError` where the export has no keep head to turn."""
        return self._recommender.dial(setting)

    def unmeasured(self, dial: Dial) -> str:
        """A sentence where the dial lies beyond what `export` has measured; else empty."""
        return self._recommender.unmeasured(dial)

    def recommend(
        self,
        tracks: Any,
        skipped: Any = None,
        *,
        profile: Any = None,
        k: int = 10,
        exclude: Exclude = "session",
        dial: Dial = 0.0,
        filter: Any = (),
        cool_down: int = 0,
        unknown: Unknown = "refuse",
        names: bool = False,
    ) -> Any:
        """Recommends up to `k` tracks after one session or many.

        `tracks` holds track ids in play order, and `skipped` says for each whether it was skipped (or its skip
        strength, 0..3), None where it is not known. What is returned follows the kind of `tracks`:

        - a list of ids (one session): a list of (track, score), best first;
        - a list of lists (many sessions): a list of such lists;
        - an Arrow array (of ids, or of lists of ids): an Arrow table with the columns `tracks` and `scores`;
        - an Arrow table, a pandas or a polars data frame with the column `tracks` (lists of ids) and optionally
          `skips`, `profile` and `session_id`: the same kind, with `session_id` (if given), `tracks` and `scores`.

        Tables of an export with a keep head have the column `kept` too: the probability that the listener keeps each
        track. With `names` they have the columns of what tracks are called, such as `title`; for lists there is
        `names`, the method. Without `skipped`, what happened to the plays counts as not known.

        `profile`: the ids of what the listener of one session kept in earlier ones, the last one at the end; for many
        sessions a list of such lists. The export's run must read profiles.

        `filter` is a dictionary such as {"explicit": False, "territory": ["SE", "NO"]}. It, `cool_down`, `exclude`,
        `dial` and `unknown` are those of `skipwise recommend`; with `unknown="drop"`, a session of
        unknown tracks alone gets an empty list. Raises `UserError` for an unknown track, an empty session or a column
        that is missing or of another type.
        """
        try:
            options = RecommendOptions(
                k=k, exclude=exclude, dial=dial, filter=filter, cool_down=cool_down, unknown=unknown
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        if said := self.unmeasured(dial):
            warnings.warn(said, stacklevel=2)
        if names and isinstance(tracks, (list, tuple)):
            raise UserError(
                "names goes with arrays and tables of sessions: for lists, call names(tracks) of the recommender"
            )
        columns, read = self._read(tracks, skipped, unknown, names, profile)
        ranked = [self.rank(sessions, options, names=names) for sessions in read]
        return like(tracks, pa.Table.from_batches(ranked, columns.ranked))

    @overload
    def similar(self, track: str, k: int = 10, by: Likeness = "cosine") -> Ranked: ...
    @overload
    def similar(self, track: list[str], k: int = 10, by: Likeness = "cosine") -> list[Ranked]: ...
    def similar(self, track: str | list[str], k: int = 10, by: Likeness = "cosine") -> Ranked | list[Ranked]:
        """Up to `k` tracks nearest to `track` in the embedding table, as (track, similarity), nearest first.

        For a list of ids, a list of such lists. `by` is "cosine", or "inner-product", which prefers long embeddings.
        Raises `UserError` for an unknown track.
        """
        _check_k(k)
        if by not in ("cosine", "inner-product"):
            raise UserError(f"by must be 'cosine' or 'inner-product', not {by!r}")
        rows_Q = self._rows([track] if isinstance(track, str) else track)
        rows_QK, scores_QK = self._recommender.similar(rows_Q, k, by)
        ranked = []
        for rows_K, scores_K in zip(rows_QK, scores_QK, strict=True):
            ids = self.tracks.ids(rows_K[rows_K >= 0]).to_pylist()
            ranked.append(list(zip(ids, scores_K.tolist(), strict=False)))
        return ranked[0] if isinstance(track, str) else ranked

    def find(self, text: str, k: int = 20) -> list[str]:
        """Ids of up to `k` tracks that have all words of `text` in title and artist, the most played first.

        The last word may be the beginning of one. Ids that begin with `text` are found too.
        """
        _check_k(k)
        return find_tracks(self.opened, text, k)

    def names(self, tracks: list[str]) -> list[dict[str, str]]:
        """What each of these tracks is called, such as {"title": "Hello", "artist": "X"}, without what is not known.

        Raises `UserError` for an unknown track.
        """
        return self.tracks.named_rows(self._rows(tracks).tolist())

    def _rows(self, tracks: list[str]) -> np.ndarray:
        if not isinstance(tracks, (list, tuple)) or not all(isinstance(one, str) for one in tracks):
            raise UserError(f"{shown(str(tracks))} is no track id and no list of them: expected text, as '8'")
        return np.array([known_row(self.tracks, one, "the track") for one in tracks], dtype=np.int64)

    def encode(self, tracks: Any, skipped: Any = None, dial: Dial = 0.0, profile: Any = None) -> np.ndarray:
        """The encoder's queries, float32 [S, D], in the order of the sessions; [D] for one session as a list of ids.

        Takes what `recommend` takes. The score of a track at this `dial` is the inner product of its row and the query.
        """
        try:
            turned = self.dial(check_dial(dial))
        except ValueError as error:
            raise UserError(str(error)) from error
        queries = [np.zeros((0, self.opened.manifest.dim), dtype=np.float32)]
        for sessions in self._read(tracks, skipped, "refuse", profile=profile)[1]:
            queries_SD = np.zeros((len(sessions.lengths_S), self.opened.manifest.dim), dtype=np.float32)
            for chosen_B, history in sessions.batches(_BATCH):
                queries_SD[chosen_B] = self._recommender.queries(history, turned).numpy()
            queries.append(queries_SD)
        queries_SD = np.concatenate(queries)
        return queries_SD[0] if is_one_session(tracks) else queries_SD

    def rank(
        self, sessions: Sessions, options: RecommendOptions, batch: int = _BATCH, names: bool = False
    ) -> pa.RecordBatch:
        """Recommendations in the columns of `SessionColumns.ranked`, computed for `batch` sessions at a time."""
        rows_SK = np.full((len(sessions.lengths_S), options.k), -1, dtype=np.int64)
        scores_SK = np.full(rows_SK.shape, -np.inf, dtype=np.float32)
        kept_SK = np.zeros_like(scores_SK)
        for chosen_B, history in sessions.batches(batch):
            found = self._recommender.recommend(history, options)
            rows_SK[chosen_B], scores_SK[chosen_B] = found.rows_BK, found.scores_BK
            if found.kept_BK is not None:
                kept_SK[chosen_B] = found.kept_BK
        found_SK = rows_SK >= 0
        offsets = pa.array(np.concatenate([[0], found_SK.sum(axis=1).cumsum()]).astype(np.int32))
        tracks = pa.ListArray.from_arrays(offsets, self.tracks.ids(rows_SK[found_SK]).cast(pa.string()))
        numbers = {"scores": scores_SK} | ({"kept": kept_SK} if self.opened.manifest.keep else {})
        lists = {name: pa.ListArray.from_arrays(offsets, pa.array(of_SK[found_SK])) for name, of_SK in numbers.items()}
        if names:
            for name, values in self.tracks.named(rows_SK[found_SK]).items():
                lists[name] = pa.ListArray.from_arrays(offsets, values.cast(pa.string()))
        return pa.record_batch(sessions.ids | {"tracks": tracks} | lists)

    def _read(
        self, tracks: Any, skipped: Any, unknown: Unknown, names: bool = False, profile: Any = None
    ) -> tuple[SessionColumns, Iterator[Sessions]]:
        if profile is not None and not self.opened.profile:
            raise UserError(
                f"{self.opened.path} reads no profile: leave it out, or export a run that was trained with "
                "--data.profile"
            )
        table = with_profile(to_table(tracks, skipped, names_of(self.opened)), tracks, profile)
        columns = SessionColumns("sessions", table.schema, self.opened, names)
        return columns, columns.read(table.select(columns.names).combine_chunks().to_batches(_CHUNK), unknown)


def _check_k(k: int) -> None:
    """`check_k`, as a `UserError`."""
    try:
        check_k(k)
    except ValueError as error:
        raise UserError(str(error)) from error
