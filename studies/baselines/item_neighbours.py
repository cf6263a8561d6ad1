"""Tracks that share sessions with the last one.

Shape legend: B sessions, S plays of the longest history, N tracks, M training sessions, L distinct last tracks.
"""

import numpy as np
from scipy.sparse import csr_array

from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines.markov import last_tracks
from skipwise.studies.baselines.session_tracks import read_session_tracks

SHRINKAGE = 20
"""Sessions added to each track's own, so that rare tracks are not similar by chance; session-rec's default."""


class ItemKNN:
    """Scores a track by the cosine between its sessions and the last track's, as session-rec's `iknn` by default.

    s(i, j) = (sessions with both) / sqrt((sessions with i + 20) (sessions with j + 20)), and s(i, i) = 0: Hidasi et
    al., "Session-based recommendations with recurrent neural networks", ICLR 2016. session-rec keeps the 100 most
    similar tracks of each; here all are kept, since they are computed for the last tracks at hand alone. Tracks without
    a common session tie at 0. 16 bytes for each distinct track of a session.
    """

    name, label = "item-knn", "item-kNN"

    def __init__(self, store: SessionStore, held_out: int):
        """`held_out`: plays at each session's end that are left out."""
        sessions = read_session_tracks(store, held_out)
        played = np.ones(len(sessions.tracks_P), dtype=np.int32)
        shape = (len(sessions.sizes_N), store.num_tracks)
        self._tracks_MN = csr_array((played, sessions.tracks_P, sessions.offsets), shape=shape)
        self._sessions_NM = self._tracks_MN.T.tocsr()
        self._norms_N = np.sqrt(np.diff(self._sessions_NM.indptr) + SHRINKAGE)

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N] for int64 rows in play order, padded with -1 on the right."""
        last_L, place_B = np.unique(last_tracks(history_BS), return_inverse=True)
        similarity_LN = (self._sessions_NM[last_L] @ self._tracks_MN).toarray() / self._norms_N
        similarity_LN[np.arange(len(last_L)), last_L] = 0
        return (similarity_LN / self._norms_N[last_L, None]).astype(np.float32)[place_B]
