"""Baselines that let the most similar training sessions vote: V-SKNN and STAN.

Shape legend: B sessions, S plays of the longest history, N tracks, E distinct tracks of the histories, C candidate
neighbours, R neighbours (all sessions' one after another, as E and C), V votes: distinct tracks of the neighbours.
"""

from abc import ABC, abstractmethod

import numpy as np
from scipy.sparse import csr_array

from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines.session_tracks import last_plays, ranges, read_session_tracks

_SESSIONS_AT_ONCE = 64
_ORDER_SEED = 0


class _SessionKNN(ABC):
    """What V-SKNN and STAN share.

    Candidates are the training sessions that share a track with the history, or `sample` of them where there are more.
    session-rec takes the most recent ones. A dataset directory keeps no dates, so sessions are put into one random
    order, a function of their number alone, and the first in it are taken: a uniform sample. The same order decides
    between equally similar sessions for the `k` nearest. A track that is in no neighbour scores 0; heard tracks are
    scored like others. Where sessions are split by position, a session's own training part is one of its candidates.

    8 bytes for each distinct track of a session, and 5 more in the lists of each track's sessions, which end after
    `sample` of them.
    """

    def __init__(self, store: SessionStore, held_out: int, k: int, sample: int):
        """`held_out`: plays at each session's end that are left out; `k`: neighbours; `sample`: candidates at most."""
        self._k, self._sample, self._num_tracks = k, sample, store.num_tracks
        sessions = read_session_tracks(store, held_out)
        order = np.random.default_rng(_ORDER_SEED).permutation(len(sessions.sizes_N))
        self._sizes = sessions.sizes_N[order]
        self._offsets = self._sizes.cumsum() - self._sizes
        place = ranges(sessions.offsets[order], self._sizes)
        self._tracks, self._positions = sessions.tracks_P[place], sessions.positions_P[place]
        self._sessions_of = self._lists()

    def _lists(self) -> csr_array:
        """bool [tracks, sessions]: the first `sample` sessions of each track.

        They suffice: a session that is not among them stands behind `sample` others, so it is no candidate.
        """
        by_track = np.argsort(self._tracks, kind="stable")
        counts = np.bincount(self._tracks, minlength=self._num_tracks)
        kept = np.minimum(counts, self._sample)
        session = np.repeat(np.arange(len(self._sizes), dtype=np.int32), self._sizes)
        session = session[by_track[ranges(counts.cumsum() - counts, kept)]]
        offsets = np.concatenate([[0], kept.cumsum()])
        return csr_array((np.ones(len(session), bool), session, offsets), shape=(self._num_tracks, len(self._sizes)))

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N] for int64 rows in play order, padded with -1 on the right."""
        scores_BN = np.empty((len(history_BS), self._num_tracks), dtype=np.float32)
        for first in range(0, len(history_BS), _SESSIONS_AT_ONCE):
            chunk = slice(first, first + _SESSIONS_AT_ONCE)
            scores_BN[chunk] = self._score(history_BS[chunk])
        return scores_BN

    def _score(self, history_BS: np.ndarray) -> np.ndarray:
        played_BS = history_BS >= 0
        length_B = played_BS.sum(axis=1)
        session_E, track_E, play_E = last_plays(np.nonzero(played_BS)[0], history_BS[played_BS], self._num_tracks)
        position_E = play_E - (length_B.cumsum() - length_B)[session_E] + 1
        weight_E = self._weights(position_E, length_B[session_E])
        session_R, neighbour_R, similarity_R = self._nearest(session_E, track_E, weight_E, len(history_BS))

        size_R = self._sizes[neighbour_R]
        neighbour_V = np.repeat(np.arange(len(size_R)), size_R)
        place_V = ranges(self._offsets[neighbour_R], size_R)
        track_V, session_V = self._tracks[place_V], session_R[neighbour_V]
        heard_BN = np.zeros((len(history_BS), self._num_tracks), dtype=np.int32)
        heard_BN[session_E, track_E] = position_E
        factor_V = self._factors(
            heard_BN[session_V, track_V], self._positions[place_V], neighbour_V, size_R, length_B[session_R]
        )
        cell_V = session_V * self._num_tracks + track_V
        votes = np.bincount(cell_V, similarity_R[neighbour_V] * factor_V, minlength=heard_BN.size)
        return votes.reshape(heard_BN.shape)

    def _nearest(
        self, session_E: np.ndarray, track_E: np.ndarray, weight_E: np.ndarray, sessions: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Session, neighbour and similarity [R] of each session's nearest neighbours."""
        lists, column_E = np.unique(track_E, return_inverse=True)
        weights = csr_array((weight_E, (session_E, column_E)), shape=(sessions, len(lists)))
        shared = weights @ self._sessions_of[lists].astype(np.float64)
        shared.sort_indices()
        session_C = np.repeat(np.arange(sessions), np.diff(shared.indptr))
        sampled = _places(session_C) < self._sample
        session_C, neighbour_C, product_C = session_C[sampled], shared.indices[sampled], shared.data[sampled]
        norm_B = np.sqrt(np.bincount(session_E, weight_E**2, minlength=sessions))
        # float32, so that the order in which a sum was taken does not tell equals apart.
        similarity_C = self._similarity(product_C, norm_B[session_C], self._sizes[neighbour_C]).astype(np.float32)
        by_similarity = np.lexsort((-similarity_C, session_C))
        nearest = by_similarity[_places(session_C[by_similarity]) < self._k]
        return session_C[nearest], neighbour_C[nearest], similarity_C[nearest].astype(np.float64)

    @abstractmethod
    def _weights(self, position_E: np.ndarray, length_E: np.ndarray) -> np.ndarray:
        """float64 [E]: weights of tracks of the histories, by last position (from 1) and length."""

    @abstractmethod
    def _similarity(self, product_C: np.ndarray, norm_C: np.ndarray, size_C: np.ndarray) -> np.ndarray:
        """float64 [C], from the sum of the shared tracks' weights, the history's norm and the neighbour's tracks."""

    @abstractmethod
    def _factors(
        self,
        heard_V: np.ndarray,
        position_V: np.ndarray,
        neighbour_V: np.ndarray,
        size_R: np.ndarray,
        length_R: np.ndarray,
    ) -> np.ndarray:
        """float64 [V]: by what a neighbour's similarity is multiplied in its vote for each of its tracks.

        `heard_V`: last position in the history, 0 where it lacks the track; `position_V`: in the neighbour;
        `neighbour_V`: place in R; `size_R`: the neighbour's tracks; `length_R`: the history's plays.
        """


class VSKNN(_SessionKNN):
    """V-SKNN: Ludewig & Jannach, "Evaluation of session-based recommendation algorithms", UMUAI 2018.

    As in session-rec: a track at position i of a history of length n has the weight (i / n)^2 (its last position, where
    it was played more than once). Similarity is the sum of the shared tracks' weights. A neighbour votes for its tracks
    with its similarity over d^2, where the history's d-th play from the end is the latest whose track they share. The
    squares (`quadratic`) and `sample` are those of session-rec's settings for music (8tracks); `k` is the better one of
    100 and 500 on the validation targets of 8,000 MSSD sessions, by NDCG@10 without heard tracks (2026-11-26).
    """

    name, label = "vsknn", "V-SKNN"

    def __init__(self, store: SessionStore, held_out: int, k: int = 500, sample: int = 5000):
        super().__init__(store, held_out, k, sample)

    def _weights(self, position_E: np.ndarray, length_E: np.ndarray) -> np.ndarray:
        return (position_E / length_E) ** 2

    def _similarity(self, product_C: np.ndarray, norm_C: np.ndarray, size_C: np.ndarray) -> np.ndarray:
        return product_C

    def _factors(
        self,
        heard_V: np.ndarray,
        position_V: np.ndarray,
        neighbour_V: np.ndarray,
        size_R: np.ndarray,
        length_R: np.ndarray,
    ) -> np.ndarray:
        return (1 / (length_R - _maxima(heard_V, size_R) + 1) ** 2)[neighbour_V]


class STAN(_SessionKNN):
    """STAN: Garg et al., "Sequence and time aware neighborhood for session-based recommendations", SIGIR 2019.

    As in session-rec: a track at position i of a history of length n has the weight exp((i - n) / lambda_1) (its last
    position). Similarity is the cosine with a neighbour's set of tracks. A neighbour votes for the track at its
    position p with its similarity times exp(-|p - q| / lambda_3), where q is the last of its positions whose track the
    history holds. The decay by the time between sessions, lambda_2, is left out: a dataset directory keeps no dates.
    lambda_1, lambda_3 and `sample` are session-rec's defaults; `k` is chosen like that of V-SKNN.
    """

    name, label = "stan", "STAN"

    def __init__(
        self,
        store: SessionStore,
        held_out: int,
        k: int = 100,
        sample: int = 5000,
        lambda_1: float = 1.02,
        lambda_3: float = 2.05,
    ):
        self._lambda_1, self._lambda_3 = lambda_1, lambda_3
        super().__init__(store, held_out, k, sample)

    def _weights(self, position_E: np.ndarray, length_E: np.ndarray) -> np.ndarray:
        return np.exp((position_E - length_E) / self._lambda_1)

    def _similarity(self, product_C: np.ndarray, norm_C: np.ndarray, size_C: np.ndarray) -> np.ndarray:
        return product_C / (norm_C * np.sqrt(size_C))

    def _factors(
        self,
        heard_V: np.ndarray,
        position_V: np.ndarray,
        neighbour_V: np.ndarray,
        size_R: np.ndarray,
        length_R: np.ndarray,
    ) -> np.ndarray:
        matched_R = _maxima(np.where(heard_V > 0, position_V, 0), size_R)
        return np.exp(-np.abs(position_V - matched_R[neighbour_V]) / self._lambda_3)


def _maxima(values_V: np.ndarray, size_R: np.ndarray) -> np.ndarray:
    """[R]: the greatest value of each neighbour; every one has a track."""
    return np.maximum.reduceat(values_V, size_R.cumsum() - size_R)


def _places(session: np.ndarray) -> np.ndarray:
    """int64: the place of each entry among those of its session, from 0; sessions ascend."""
    return np.arange(len(session)) - np.searchsorted(session, session)
