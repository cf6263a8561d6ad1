"""Plays of each track, and pairs of successive tracks, in the training data; read row group by row group."""

import numpy as np

from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.sessions import SessionStore


def train_counts(
    store: SessionStore, rank: int = 0, world_size: int = 1, held_out: int = HELD_OUT["validation"]
) -> np.ndarray:
    """Returns int64 [num_tracks]: plays of each track in this rank's row groups.

    Each session's last `held_out` tracks are left out. The sum over all ranks counts every session.
    """
    counts = np.zeros(store.num_tracks, dtype=np.int64)
    for group in range(rank, len(store.group_sizes), world_size):
        window = store.read(np.array([group]))
        lengths = np.diff(window.offsets)
        left = np.repeat(window.offsets[1:], lengths) - np.arange(len(window.tracks))
        np.add.at(counts, window.tracks[left > held_out], 1)  # in time that does not grow with the tracks
    return counts


def transitions(store: SessionStore, held_out: int = HELD_OUT["validation"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of successive tracks: ascending int64 keys `track * num_tracks + next`, and their int64 counts.

    Each session's last `held_out` tracks are left out. The pairs of row groups are merged when they are as many as the
    distinct pairs so far: memory stays proportional to the distinct pairs.
    """
    keys, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    waiting: list[np.ndarray] = []
    for group in range(len(store.group_sizes)):
        window = store.read(np.array([group]))
        last = np.repeat(window.offsets[1:] - held_out, np.diff(window.offsets)) - 1
        first = np.flatnonzero(np.arange(len(window.tracks)) < last)
        waiting.append(window.tracks[first].astype(np.int64) * store.num_tracks + window.tracks[first + 1])
        if sum(map(len, waiting)) >= len(keys):
            keys, counts = _merged(keys, counts, waiting)
            waiting = []
    return _merged(keys, counts, waiting)


def _merged(keys: np.ndarray, counts: np.ndarray, waiting: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    new, new_counts = np.unique(np.concatenate([keys[:0], *waiting]), return_counts=True)
    places = np.searchsorted(keys, new)
    known = np.append(keys, -1)[places] == new
    counts[places[known]] += new_counts[known]
    return np.insert(keys, places[~known], new[~known]), np.insert(counts, places[~known], new_counts[~known])
