"""What a model reads of a session. Training, evaluation and serving all call it, so that they read the same.

NumPy only. Shape legend: B sessions, S positions of whole sessions, T positions that are read, K context
columns.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from skipwise.datapipes.negatives import keys, uniforms
from skipwise.datapipes.signals import UNKNOWN, Signals

SKIPPED_UP_TO = 2
"""The greatest strength that counts as skipped where nothing else is configured, and in every metric."""


def counts_as_skipped(strengths: Any, up_to: int = SKIPPED_UP_TO) -> Any:
    """Returns a bool array or tensor: which skip strengths (0 kept to 3 mostly played) count as skipped."""
    return (strengths >= 1) & (strengths <= up_to)


def counts_as_kept(strengths: Any, up_to: int = SKIPPED_UP_TO) -> Any:
    """Returns a bool array or tensor: which count as kept. A play of which it is not known (-1) is neither."""
    return (strengths == 0) | (strengths > up_to)


def is_known(strengths: Any) -> Any:
    """Returns a bool array or tensor: of which plays it is known what happened."""
    return strengths != UNKNOWN


class Inputs(NamedTuple):
    """The plays that the model reads, in play order, padded on the right to at least one position."""

    rows_BT: np.ndarray
    """int64; -1 is padding."""
    strengths_BT: np.ndarray
    """int8: skip strengths, -1 where it is not known what happened; 0 at padding."""
    length_B: np.ndarray
    """int64: how many plays are read."""
    contexts_BTK: np.ndarray | None = None
    """Codes of context columns, 0 for what is not known and at padding; None where none are read."""

    @property
    def valid_BT(self) -> np.ndarray:
        """bool: all but padding."""
        return self.rows_BT >= 0


@dataclass(frozen=True)
class View:
    """Which plays a model reads of the plays before the one to predict."""

    length: int
    """The most plays that are read: the last ones."""
    skip_up_to: int = SKIPPED_UP_TO
    """Strengths 1 up to this count as skipped."""
    filter_skipped: bool = False
    """Skipped plays are removed, as if they had never happened."""
    signals: Signals = Signals()
    """What is read of a play beside its track."""

    def skipped(self, strengths: np.ndarray) -> np.ndarray:
        """bool: which of these strengths count as skipped."""
        return counts_as_skipped(strengths, self.skip_up_to)

    def kept(self, strengths: np.ndarray) -> np.ndarray:
        """bool: which of these strengths count as kept; what is not known does not."""
        return counts_as_kept(strengths, self.skip_up_to)

    def strengths(self, flags: np.ndarray) -> np.ndarray:
        """int8: the strengths that stand for flags of skipped plays, as `prepare` stores them where it can."""
        return (flags * min(SKIPPED_UP_TO, self.skip_up_to)).astype(np.int8)

    def before(
        self, rows_BS: np.ndarray, strengths_BS: np.ndarray, past_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first `past_B` plays of each session, for `read`: rows with -1 behind, strengths with 0."""
        width = max(1, int(past_B.max(initial=0)))
        real_BS = np.arange(width) < past_B[:, None]
        return np.where(real_BS, rows_BS[:, :width], -1), np.where(real_BS, strengths_BS[:, :width], 0)

    def read(
        self,
        rows_BS: np.ndarray,
        strengths_BS: np.ndarray,
        padding: int = 0,
        contexts_BSK: np.ndarray | None = None,
    ) -> Inputs:
        """Returns the last `length` plays of each session, without its skipped ones where those are filtered.

        `rows_BS`: rows in play order, -1 where there is no play; `padding`: positions to add behind the longest;
        `contexts_BSK`: codes of the same plays, and perhaps of later ones, which are not read.
        """
        read_BS = rows_BS >= 0
        if self.filter_skipped:
            read_BS &= ~self.skipped(strengths_BS)
        count_B = read_BS.sum(axis=1)
        length_B = np.minimum(count_B, self.length)
        read_BS &= read_BS.cumsum(axis=1) > (count_B - length_B)[:, None]
        width = max(1, int(length_B.max(initial=0)) + padding)
        valid_BT = np.arange(width) < length_B[:, None]
        rows_BT, strengths_BT = np.full(valid_BT.shape, -1, dtype=np.int64), np.zeros(valid_BT.shape, dtype=np.int8)
        # Both masks hold as many places in each session, and NumPy goes through them in the same order.
        rows_BT[valid_BT], strengths_BT[valid_BT] = rows_BS[read_BS], strengths_BS[read_BS]
        contexts_BTK = None
        if contexts_BSK is not None:
            contexts_BTK = np.zeros((*valid_BT.shape, contexts_BSK.shape[2]), dtype=contexts_BSK.dtype)
            contexts_BTK[valid_BT] = contexts_BSK[:, : rows_BS.shape[1]][read_BS]
        return Inputs(rows_BT, strengths_BT, length_B, contexts_BTK)


def shuffled_order(real_BS: np.ndarray, seed: int, number_B: np.ndarray) -> np.ndarray:
    """int64 [B, S]: the places of each session's plays in random order, the same in every epoch.

    `real_BS`: which positions hold a play, the first ones of each session; `number_B`: the sessions' numbers.
    """
    draws_BS = uniforms(keys("shuffle", seed, 0, number_B), real_BS.shape[1])
    # Sorted, the draws of a session's own plays come first.
    return np.where(real_BS, draws_BS, 2.0).argsort(axis=1)
