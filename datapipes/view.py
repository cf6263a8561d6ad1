"""The view of a session that a model reads: how many of its tracks, and which plays count as skipped."""

from dataclasses import dataclass, replace

import numpy as np

from skipwise.datapipes.negatives import keys, uniforms
from skipwise.datapipes.sessions import Sessions


@dataclass(frozen=True)
class View:
    """How a builder sees the tracks that precede what it holds out."""

    length: int
    """The most tracks that are read: the last ones."""
    skip_up_to: int = 2
    """Strengths 1 up to this count as skipped."""
    filter_skipped: bool = False
    """Skipped tracks are taken out, as if they had never been played."""
    shuffle_seed: int | None = None
    """Where given, skip flags change places within each session, the same way in every epoch."""

    def skipped(self, skips: np.ndarray) -> np.ndarray:
        """bool: which of these strengths count as skipped."""
        return (skips >= 1) & (skips <= self.skip_up_to)


def replace_length(view: View, by: int) -> View:
    """The view with `by` more tracks."""
    return replace(view, length=view.length + by)


class Inputs:
    """What a `view` shows of the first `past_B` tracks of each session, moved to the left, and `padding` behind it."""

    def __init__(self, sessions: Sessions, past_B: np.ndarray, view: View, padding: int = 0):
        past = max(1, int(past_B.max(initial=0)))
        shown_BS = np.arange(past) < past_B[:, None]
        tracks_BS, skips_BS = sessions.tracks_BT[:, :past], sessions.skips_BT[:, :past]
        skipped_BS = shown_BS & view.skipped(skips_BS)
        if view.shuffle_seed is not None:
            draws_BS = uniforms(keys("shuffle", view.shuffle_seed, 0, sessions.number_B), past)
            # Sorted, the draws of a session's own tracks come first, in random order.
            order_BS = np.where(shown_BS, draws_BS, 2.0).argsort(axis=1)
            skipped_BS = np.take_along_axis(skipped_BS, order_BS, axis=1)
        self.seen_BS = np.where(shown_BS, tracks_BS, -1)
        if view.filter_skipped:
            shown_BS &= ~skipped_BS
        self.length_B = np.minimum(shown_BS.sum(axis=1), view.length)
        width = max(1, int(self.length_B.max(initial=0)) + padding)
        place_T = np.arange(width)
        self.valid_BT = place_T < self.length_B[:, None]
        # The shown places in order, the last `length_B` of them.
        places_BS = np.argsort(~shown_BS, axis=1, kind="stable")
        first_B = shown_BS.sum(axis=1) - self.length_B
        source_BT = np.take_along_axis(places_BS, np.minimum(first_B[:, None] + place_T, past - 1), axis=1)
        self.rows_BT = np.where(self.valid_BT, np.take_along_axis(tracks_BS, source_BT, axis=1), -1)
        self.skipped_BT = self.valid_BT & np.take_along_axis(skipped_BS, source_BT, axis=1)
