"""Recommendations by track id, from one export: what `skipwise.load` returns, and the commands call.

Shape legend: S sessions, P plays of them, B sessions of a batch, D width, K best.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import Exclude, Likeness, RecommendOptions, Unknown, check_k
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.recommend.session_columns import SessionChunk, SessionColumns
from skipwise.retrieval.recommend.session_frames import is_one_session, like, to_table
from skipwise.retrieval.recommend.session_text import known_row
from skipwise.retrieval.search.config import SearchChoice
from skipwise.retrieval.search.exact import Search
from skipwise.retrieval.search.stored import open_search

_CHUNK = 1 << 14
"""Sessions whose track ids are looked up together."""
Ranked = list[tuple[str, float]]
"""(track id, score), best first."""


class TrackRecommender:
    """One open export. Safe to call from several threads."""

    def __init__(self, opened: OpenExport, search: Search):
        """`search` must be of `opened`; see `load`."""
        self._opened, self._recommender = opened, Recommender(opened, search)
        self.tracks, self.view = opened.tracks, opened.view

    @classmethod
    def load(cls, export: str | Path, search: SearchChoice = "auto") -> "TrackRecommender":
        """Opens an export that `skipwise export` wrote, and its index if `search` says so.

        Reads every file once and compares its hash. Raises `UserError` for an export that is incomplete or changed.
        """
        opened = OpenExport.open(Path(export))
        return cls(opened, open_search(opened, search))

    def recommend(
        self,
        tracks: Any,
        skipped: Any = None,
        *,
        k: int = 10,
        exclude: Exclude = "both",
        steer: float = 0.0,
        unknown: Unknown = "refuse",
    ) -> Any:
        """Recommends up to `k` tracks after one session or many.

        `tracks` holds track ids in play order, and `skipped` says for each whether it was skipped (or its skip
        strength, 0..3). What is returned follows the kind of `tracks`:

        - a list of ids (one session): a list of (track, score), best first;
        - a list of lists (many sessions): a list of such lists;
        - an Arrow array (of ids, or of lists of ids): an Arrow table with the columns `tracks` and `scores`;
        - an Arrow table, a pandas or a polars data frame with the column `tracks` (lists of ids) and optionally
          `skips` and `session_id`: the same kind, with `session_id` (if given), `tracks` and `scores`.

        `exclude`, `steer` and `unknown` are those of `skipwise recommend`; with `unknown="drop"`, a session of
        unknown tracks alone gets an empty list. Raises `UserError` for an unknown track, an empty session or a column
        that is missing or of another type.
        """
        try:
            options = RecommendOptions(k=k, exclude=exclude, steer=steer, unknown=unknown)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.check_k(k)
        table = to_table(tracks, skipped)
        columns = SessionColumns("sessions", table.schema, self.view)
        ranked = [self.rank(columns, chunk, options)[0] for chunk in _chunks(columns, table)]
        return like(tracks, pa.Table.from_batches(ranked, self.schema(columns)))

    @overload
    def similar(self, track: str, k: int = 10, by: Likeness = "cosine") -> Ranked: ...
    @overload
    def similar(self, track: list[str], k: int = 10, by: Likeness = "cosine") -> list[Ranked]: ...
    def similar(self, track: str | list[str], k: int = 10, by: Likeness = "cosine") -> Ranked | list[Ranked]:
        """The `k` tracks nearest to `track` in the embedding table, as (track, similarity), nearest first.

        For a list of ids, a list of such lists. `by` is "cosine", or "inner-product", which prefers long embeddings.
        Raises `UserError` for an unknown track.
        """
        self.check_k(k)
        if by not in ("cosine", "inner-product"):
            raise UserError(f"by must be 'cosine' or 'inner-product', not {by!r}")
        tracks = [track] if isinstance(track, str) else track
        rows_Q = np.array([known_row(self.tracks, one, "the track") for one in tracks], dtype=np.int64)
        rows_QK, scores_QK = self._recommender.similar(rows_Q, k, by)
        ranked = [self.pairs(rows_K, scores_K) for rows_K, scores_K in zip(rows_QK, scores_QK, strict=True)]
        return ranked[0] if isinstance(track, str) else ranked

    def encode(self, tracks: Any, skipped: Any = None) -> np.ndarray:
        """The encoder's queries, float32 [S, D], in the order of the sessions; [D] for one session as a list of ids.

        Takes what `recommend` takes. The score of a track is the inner product of its embedding and the query.
        """
        table = to_table(tracks, skipped)
        columns = SessionColumns("sessions", table.schema, self.view)
        queries_SD = np.zeros((len(table), self._opened.manifest.dim), dtype=np.float32)
        for chunk in _chunks(columns, table):
            lengths_S, rows_P, skipped_P, _ = self._rows(columns, chunk, "refuse")
            for chosen_B, history in _batches(lengths_S, rows_P, skipped_P, 512):
                queries_SD[chunk.first + chosen_B] = self._recommender.queries(history).numpy()
        return queries_SD[0] if is_one_session(tracks) else queries_SD

    def check_k(self, k: int) -> None:
        """Raises `UserError` for a `k` that is out of range or larger than the number of tracks."""
        try:
            check_k(k)
        except ValueError as error:
            raise UserError(str(error)) from error
        if k > len(self.tracks):
            path, count = self._opened.path, len(self.tracks)
            raise UserError(f"k {k} is more than the {count} tracks of {path}: ask for fewer")

    def schema(self, columns: SessionColumns) -> pa.Schema:
        """The columns that `rank` gives."""
        ids = {"session_id": columns.id_type} if columns.id_type is not None else {}
        return pa.schema(ids | {"tracks": pa.list_(pa.string()), "scores": pa.list_(pa.float32())})

    def rank(
        self, columns: SessionColumns, chunk: SessionChunk, options: RecommendOptions, batch: int = 512
    ) -> tuple[pa.RecordBatch, tuple[int, int]]:
        """Recommendations for a chunk, `batch` sessions at a time.

        With them, how many unknown tracks were left out, and how many sessions that leaves empty.
        """
        lengths_S, rows_P, skipped_P, num_unknown = self._rows(columns, chunk, options.unknown)
        rows_SK = np.full((len(lengths_S), options.k), -1, dtype=np.int64)
        scores_SK = np.full((len(lengths_S), options.k), -np.inf, dtype=np.float32)
        for chosen_B, history in _batches(lengths_S, rows_P, skipped_P, batch):
            rows_SK[chosen_B], scores_SK[chosen_B] = self._recommender.recommend(history, options)
        found_SK = rows_SK >= 0
        offsets = pa.array(np.concatenate([[0], found_SK.sum(axis=1).cumsum()]).astype(np.int32))
        ids = [] if chunk.ids_S is None else [chunk.ids_S]
        tracks = pa.ListArray.from_arrays(offsets, self.tracks.ids(rows_SK[found_SK]).cast(pa.string()))
        scores = pa.ListArray.from_arrays(offsets, pa.array(scores_SK[found_SK]))
        ranked = pa.record_batch([*ids, tracks, scores], schema=self.schema(columns))
        return ranked, (num_unknown, int((lengths_S == 0).sum()))

    def pairs(self, rows_K: np.ndarray, scores_K: np.ndarray) -> Ranked:
        """(track, score) of each row; -1, where there are no more, ends the list."""
        found_K = rows_K >= 0
        return list(zip(self.tracks.ids(rows_K[found_K]).to_pylist(), scores_K[found_K].tolist(), strict=True))

    def _rows(
        self, columns: SessionColumns, chunk: SessionChunk, unknown: Unknown
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Lengths [S], rows [P] and skip flags [P] of the known tracks, and how many tracks are unknown."""
        rows_P = self.tracks.rows(chunk.tracks_P)
        known_P = rows_P >= 0
        if unknown == "refuse":
            columns.refuse_unknown(chunk, known_P, self.tracks)
        session_P = np.repeat(np.arange(len(chunk.lengths_S)), chunk.lengths_S)[known_P]
        lengths_S = np.bincount(session_P, minlength=len(chunk.lengths_S))
        return lengths_S, rows_P[known_P], chunk.skipped_P[known_P], int((~known_P).sum())


def _chunks(columns: SessionColumns, table: pa.Table) -> Iterator[SessionChunk]:
    first = 0
    for batch in table.select(columns.names).combine_chunks().to_batches(_CHUNK):
        yield columns.chunk(first, batch)
        first += len(batch)


def _batches(
    lengths_S: np.ndarray, rows_P: np.ndarray, skipped_P: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, SessionHistory]]:
    """The sessions that are not empty, at most `size` at a time: their numbers [B] and their plays.

    Sessions of similar length go together, because the encoder also computes on padding.
    """
    starts_S = lengths_S.cumsum() - lengths_S
    order = np.argsort(lengths_S, kind="stable")
    order = order[lengths_S[order] > 0]
    for start in range(0, len(order), size):
        chosen_B = order[start : start + size]
        lengths_B = lengths_S[chosen_B]
        within = np.arange(lengths_B.sum()) - np.repeat(lengths_B.cumsum() - lengths_B, lengths_B)
        plays = np.repeat(starts_S[chosen_B], lengths_B) + within
        yield chosen_B, SessionHistory.flat(lengths_B, rows_P[plays], skipped_P[plays])
