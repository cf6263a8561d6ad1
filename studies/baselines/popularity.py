"""The most played tracks: over all training plays, and in the session so far.

Shape legend: B sessions, S plays of the longest history, N tracks.
"""

import numpy as np

from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore


class Popularity:
    """Scores a track by its training plays, the same for every session. 8 bytes a track."""

    name, label = "popularity", "popularity"

    def __init__(self, store: SessionStore, held_out: int):
        """`held_out`: plays at each session's end that are not counted."""
        distinct, places_N = np.unique(train_counts(store, held_out=held_out), return_inverse=True)
        self.places_N = places_N
        """int64 [N]: the place of each track's plays among the distinct numbers of plays, from 0; equal plays tie."""
        self.num_places = len(distinct)

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N]: places, which have far fewer digits than plays: float32 tells them apart."""
        return np.tile(self.places_N.astype(np.float32), (len(history_BS), 1))


class PopularityInSession:
    """Scores a track by its plays in the session so far, then by its training plays. 8 bytes a track.

    S-POP of Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016.
    """

    name, label = "session-popularity", "popularity in the session"

    def __init__(self, store: SessionStore, held_out: int):
        """`held_out`: plays at each session's end that are not counted."""
        self._popularity = Popularity(store, held_out)

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N] for int64 rows in play order, padded with -1 on the right."""
        scores_BN = self._popularity.scores(history_BS)
        session, play = np.nonzero(history_BS >= 0)
        # One play in the session outweighs any popularity.
        np.add.at(scores_BN, (session, history_BS[session, play]), self._popularity.num_places)
        return scores_BN


class PopularityOfListener(PopularityInSession):
    """Scores a track by how often the listener has kept it in sessions before and played it in this one, then by its
    training plays.

    "Personalised most popular" of Abbattista et al., RecSys 2024, arXiv 2409.04329, over the profile of the session.
    """

    name, label = "listener-popularity", "popularity with the listener"
