"""What most often followed the last track.

Shape legend: B sessions, S plays of the longest history, N tracks, F followers of the last tracks.
"""

import numpy as np

from skipwise.datapipes.counts import transitions
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines.popularity import Popularity
from skipwise.studies.baselines.session_tracks import ranges


class Markov:
    """First-order Markov chain: scores a track by how often it followed the last one in training, then by its plays.

    Popularity decides between tracks that followed equally often, and among those that never did. 12 bytes a distinct
    pair of successive tracks; 16 while it is fitted.
    """

    name, label = "markov", "first-order Markov chain"

    def __init__(self, store: SessionStore, held_out: int):
        """`held_out`: plays at each session's end that no counted pair holds."""
        self._popularity = Popularity(store, held_out)
        keys, self._counts = transitions(store, held_out)
        self._followers = (keys % store.num_tracks).astype(np.int32)
        self._offsets = np.searchsorted(keys, np.arange(store.num_tracks + 1) * store.num_tracks)

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N] for int64 rows in play order, padded with -1 on the right.

        Rounding to float32 never swaps two tracks; it can tie two that followed equally often, and very often.
        """
        scores_BN = self._popularity.scores(history_BS)
        last_B = last_tracks(history_BS)
        followers_B = self._offsets[last_B + 1] - self._offsets[last_B]
        place_F = ranges(self._offsets[last_B], followers_B)
        session_F, track_F = np.repeat(np.arange(len(last_B)), followers_B), self._followers[place_F]
        # One transition outweighs any popularity.
        score_F = self._counts[place_F] * self._popularity.num_places + self._popularity.places_N[track_F]
        scores_BN[session_F, track_F] = score_F
        return scores_BN


def last_tracks(history_BS: np.ndarray) -> np.ndarray:
    """int64 [B]: the last track of each row."""
    return history_BS[np.arange(len(history_BS)), (history_BS >= 0).sum(axis=1) - 1]
