"""What follows each play of a session.

Shape legend: B sessions, S positions of whole sessions, T positions that are read, W plays up to the next kept one.
"""

from typing import Any

import numpy as np


def shifted(values_BT: np.ndarray, last: Any) -> np.ndarray:
    """Each position's next value, `last` at the end."""
    return np.concatenate([values_BT[:, 1:], np.full_like(values_BT[:, :1], last)], axis=1)


def next_kept(items_BT: np.ndarray, kept_BT: np.ndarray, empty: int) -> np.ndarray:
    """The bag of the next kept track after each position, `empty` where there is none."""
    length = items_BT.shape[1]
    place_BT = np.where(kept_BT, np.arange(length), length)
    after_BT = shifted(np.minimum.accumulate(place_BT[:, ::-1], axis=1)[:, ::-1], length)
    bags_BT = np.take_along_axis(items_BT, np.minimum(after_BT, length - 1), axis=1)
    return np.where(after_BT < length, bags_BT, empty)


def until_kept(tracks_BT: np.ndarray, kept_BT: np.ndarray, skipped_BT: np.ndarray, at_B: np.ndarray) -> np.ndarray:
    """int64 [B, W]: the tracks from `at_B` up to and including the first that is not skipped, -1 behind them.

    All -1 where that is the track at `at_B` itself, where it is not kept but not known, where there is none, and where
    `at_B` is -1.
    """
    length = tracks_BT.shape[1]
    place_T = np.arange(length)
    end_B = np.where(~skipped_BT & (place_T >= at_B[:, None]), place_T, length).min(axis=1, initial=length)
    ends_B = np.take_along_axis(kept_BT, np.minimum(end_B, length - 1)[:, None], axis=1)[:, 0] & (end_B < length)
    until_B = np.where((at_B >= 0) & ends_B, end_B - at_B, 0)
    width = np.arange(until_B.max(initial=0) + 1)
    rows_BW = np.take_along_axis(tracks_BT, np.clip(at_B[:, None] + width, 0, length - 1), axis=1)
    return np.where((width <= until_B[:, None]) & (until_B > 0)[:, None], rows_BW, -1)
