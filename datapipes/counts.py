"""What training sees, counted: plays of each track, streamed by row group."""

import numpy as np

from datapipes.collate import HELD_OUT
from datapipes.sessions import SessionStore


def train_counts(
    store: SessionStore, rank: int = 0, ranks: int = 1, held_out: int = HELD_OUT["validation"]
) -> np.ndarray:
    """int64 [tracks]: plays of each track, each session's last `held_out` left out, over this rank's row groups.

    The shares of all ranks add up to the whole.
    """
    counts = np.zeros(store.tracks, dtype=np.int64)
    for group in range(rank, len(store.group_sizes), ranks):
        window = store.read(np.array([group]))
        lengths = np.diff(window.offsets)
        left = np.repeat(window.offsets[1:], lengths) - np.arange(len(window.tracks))
        counts += np.bincount(window.tracks[left > held_out], minlength=store.tracks)
    return counts
