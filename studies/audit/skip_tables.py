"""How often training sessions skipped each track, and each track right after another one."""

import numpy as np

from skipwise.studies.audit.play_stream import Plays

TRACK_SMOOTHING, PAIR_SMOOTHING = 20.0, 10.0
"""A rate counts this many plays more, at the average rate; a pair's counts them at the track's rate."""
_LEAST_MERGE = 1 << 20


class OutcomeCounts:
    """Kept and skipped plays of int64 keys. Memory is proportional to the distinct keys."""

    def __init__(self) -> None:
        self._outcomes: np.ndarray = np.zeros(0, dtype=np.int64)
        self._counts: np.ndarray = np.zeros(0)
        self._waiting: list[np.ndarray] = []

    def add(self, keys_P: np.ndarray, skipped_P: np.ndarray) -> None:
        """Counts these plays."""
        self._waiting.append(2 * keys_P + skipped_P)
        if sum(map(len, self._waiting)) >= max(_LEAST_MERGE, len(self._outcomes)):
            self._merge()

    def of(self, keys_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 [P] each: all plays, and the skipped ones, of these keys."""
        self._merge()
        kept_P, skipped_P = self._count(2 * keys_P), self._count(2 * keys_P + 1)
        return kept_P + skipped_P, skipped_P

    def _count(self, outcomes_P: np.ndarray) -> np.ndarray:
        place_P = np.searchsorted(self._outcomes, outcomes_P)
        known_P = np.append(self._outcomes, -1)[place_P] == outcomes_P
        return np.where(known_P, np.append(self._counts, 0)[place_P], 0)

    def _merge(self) -> None:
        if self._waiting:
            counts = np.concatenate([self._counts, np.ones(sum(map(len, self._waiting)))])
            self._outcomes, place = np.unique(np.concatenate([self._outcomes, *self._waiting]), return_inverse=True)
            self._counts, self._waiting = np.bincount(place, counts), []


class SkipTables:
    """Skip rates of tracks and of pairs (the track before, the track), smoothed.

    A session's own plays never count for it: what is found is what other sessions say.
    """

    def __init__(self, num_tracks: int) -> None:
        self._num_tracks, self._tracks, self._pairs = num_tracks, OutcomeCounts(), OutcomeCounts()
        self.plays = self.skips = 0

    @property
    def rate(self) -> float:
        """The share of the training plays that were skipped."""
        return self.skips / self.plays

    def add(self, plays: Plays) -> None:
        """Counts the plays that training sees."""
        chosen_P, skipped_P = plays.trained_P, plays.skipped_P
        self.plays += int(chosen_P.sum())
        self.skips += int((chosen_P & skipped_P).sum())
        self._tracks.add(plays.tracks_P[chosen_P], skipped_P[chosen_P])
        chosen_P = chosen_P & (plays.position_P > 0)
        self._pairs.add(self._pair_keys(plays)[chosen_P], skipped_P[chosen_P])

    def rates(self, plays: Plays) -> tuple[np.ndarray, np.ndarray]:
        """[P] each: the track's rate and the pair's, which says nothing at a session's first play."""
        count_P, skips_P = _others(self._tracks, plays.tracks_P, plays, plays.trained_P)
        track_P = (skips_P + TRACK_SMOOTHING * self.rate) / (count_P + TRACK_SMOOTHING)
        paired_P = plays.trained_P & (plays.position_P > 0)
        count_P, skips_P = _others(self._pairs, self._pair_keys(plays), plays, paired_P)
        return track_P, (skips_P + PAIR_SMOOTHING * track_P) / (count_P + PAIR_SMOOTHING)

    def _pair_keys(self, plays: Plays) -> np.ndarray:
        return np.roll(plays.tracks_P, 1) * self._num_tracks + plays.tracks_P


def _others(
    counts: OutcomeCounts, keys_P: np.ndarray, plays: Plays, counted_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All plays and the skipped ones of these keys, less those of the play's own session that were counted."""
    order_P = np.lexsort((keys_P, plays.session_P))
    new_P = np.diff(keys_P[order_P], prepend=-1) != 0
    new_P |= np.diff(plays.session_P[order_P], prepend=-1) != 0
    place_P = np.empty(len(order_P), dtype=np.int64)
    place_P[order_P] = np.cumsum(new_P) - 1
    count_P, skips_P = counts.of(keys_P)
    own_P = np.bincount(place_P, counted_P)[place_P]
    return count_P - own_P, skips_P - np.bincount(place_P, counted_P & plays.skipped_P)[place_P]
