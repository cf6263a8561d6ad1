"""From sessions of rows to ranked rows: encode, steer if requested, search, and leave out tracks of the session.

Shape legend: B sessions, T tracks, D width, K best, X rows to leave out, Q tracks to find the nearest of.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import Exclude, Likeness, RecommendOptions
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.vectors import Vectors


@dataclass(frozen=True)
class SessionHistory:
    """The plays of sessions so far, oldest first, padded on the right."""

    rows_BT: np.ndarray
    """int64: track rows; -1 is padding."""
    skipped_BT: np.ndarray
    """bool: whether the play was skipped; False at padding."""

    @classmethod
    def of(cls, sessions: list[list[tuple[int, bool]]]) -> "SessionHistory":
        """Of (row, skipped) pairs."""
        plays = [play for session in sessions for play in session]
        rows_P, skipped_P = (np.array([play[column] for play in plays]) for column in (0, 1))
        return cls.flat(np.array(list(map(len, sessions)), dtype=np.int64), rows_P, skipped_P)

    @classmethod
    def flat(cls, lengths_B: np.ndarray, rows_P: np.ndarray, skipped_P: np.ndarray) -> "SessionHistory":
        """Of plays in one array, session after session."""
        real_BT = np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]
        rows_BT = np.full(real_BT.shape, -1, dtype=np.int64)
        skipped_BT = np.zeros(real_BT.shape, dtype=bool)
        rows_BT[real_BT], skipped_BT[real_BT] = rows_P, skipped_P
        return cls(rows_BT, skipped_BT)


_DEFAULT = RecommendOptions()


class Recommender:
    """Recommends rows of one export by one search. Safe to call from several threads."""

    def __init__(self, opened: OpenExport, search: Search):
        self._opened, self._search = opened, search

    @torch.no_grad()
    def recommend(self, history: SessionHistory, options: RecommendOptions = _DEFAULT) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [B, K], best first, and their scores float32 [B, K]; row -1 where the catalogue has no more."""
        if not len(history.rows_BT):
            return np.zeros((0, options.k), dtype=np.int64), np.zeros((0, options.k), dtype=np.float32)
        queries_BD = self.queries(history)
        if options.steer:
            queries_BD = steered(queries_BD, contrasts(self._opened.vectors, history), options.steer)
        excluded_BX = torch.from_numpy(excluded(history, options.exclude))
        rows_BK, scores_BK = self._search.search(queries_BD, options.k, excluded_BX)
        return rows_BK.numpy(), scores_BK.numpy()

    @torch.no_grad()
    def similar(self, rows_Q: np.ndarray, k: int, by: Likeness) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [Q, K] most similar to each of `rows_Q`, itself left out, and their similarity float32 [Q, K].

        By the exact search. Row -1 where there are no more.
        """
        vectors, unit = self._opened.vectors, by == "cosine"
        queries_QD = torch.from_numpy(vectors.take(rows_Q))
        if unit:
            queries_QD = normalize(queries_QD, dim=1)
        rows_QK, scores_QK = ExactSearch(vectors, unit).search(queries_QD, k, torch.from_numpy(rows_Q)[:, None])
        return rows_QK.numpy(), scores_QK.numpy()

    @torch.no_grad()
    def queries(self, history: SessionHistory) -> Tensor:
        """The encoder's queries, float32 [B, D], B at least 1.

        Reads each session as in training: its last tracks, and without the skipped ones if the run was trained so. A
        session of which nothing is read gets the query of an empty session, as in `evaluate`.
        """
        view = self._opened.view
        inputs = view.read(history.rows_BT, view.strengths(history.skipped_BT))
        items_BTD = self._opened.vectors.take(np.maximum(inputs.rows_BT, 0).ravel()).reshape(*inputs.rows_BT.shape, -1)
        items_BTD[~inputs.valid_BT] = 0
        return self._opened.encoder(torch.from_numpy(items_BTD), torch.from_numpy(inputs.length_B))


def contrasts(vectors: Vectors, history: SessionHistory) -> Tensor:
    """float32 [B, D]: the mean of the unit vectors of each session's skipped tracks, less that of those it kept.

    Zero for a session without a skip; where no track was kept, nothing is subtracted.
    """
    session_P, place_P = (history.rows_BT >= 0).nonzero()
    skipped_P = history.skipped_BT[session_P, place_P]
    units_PD = normalize(torch.from_numpy(vectors.take(history.rows_BT[session_P, place_P])))
    skips_B = history.skipped_BT.sum(axis=1)
    kept_B = (history.rows_BT >= 0).sum(axis=1) - skips_B
    shares_P = np.where(skipped_P, 1 / np.maximum(skips_B, 1)[session_P], -1 / np.maximum(kept_B, 1)[session_P])
    shares_P1 = torch.from_numpy((shares_P * (skips_B > 0)[session_P]).astype(np.float32))[:, None]
    contrasts_BD = torch.zeros(len(skips_B), vectors.dim)
    return contrasts_BD.index_add_(0, torch.from_numpy(session_P), units_PD * shares_P1)


def steered(queries_BD: Tensor, contrasts_BD: Tensor, strength: float) -> Tensor:
    """The queries moved against `contrasts_BD` by `strength` times their own length.

    A track's score falls by strength * |query| * |track| * (its mean cosine with the skipped tracks less that with the
    kept ones). The score is still one inner product, so any index can search for it. This is Rocchio's relevance
    feedback (1971) with the session's own plays. It is not part of the paper, whose skips act in training alone;
    docs/recommend.md reports what it was measured to do.
    """
    return queries_BD - strength * queries_BD.norm(dim=1, keepdim=True) * contrasts_BD


def excluded(history: SessionHistory, exclude: Exclude) -> np.ndarray:
    """int64 [B, X]: the rows that `exclude` leaves out of each session's recommendations; -1 for none."""
    chosen_BT = {
        "session": history.rows_BT >= 0,
        "kept": ~history.skipped_BT,
        "skipped": history.skipped_BT,
        "none": np.zeros_like(history.skipped_BT),
    }[exclude]
    return np.where(chosen_BT, history.rows_BT, -1)
