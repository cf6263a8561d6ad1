"""The plays of a dataset, row group by row group.

Shape legend of this package: P plays, M sessions, F features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.manifest import Split
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import counts_as_kept, counts_as_skipped, is_known


@dataclass(frozen=True)
class Plays:
    """The plays of a row group in session and play order: a session's plays follow each other."""

    tracks_P: np.ndarray
    """int64 rows of the vocabulary."""
    strengths_P: np.ndarray
    """int8 skip strengths."""
    session_P: np.ndarray
    """int64: the session's place in the row group."""
    start_P: np.ndarray
    """int64: the place of the session's first play."""
    length_P: np.ndarray
    """int64: the session's number of plays."""
    number_P: np.ndarray
    """int64: the session's number in the dataset."""
    trained_P: np.ndarray
    """bool: plays that training sees, of which it is known whether they were skipped."""
    measured_P: np.ndarray
    """bool: such test targets, as `evaluate` has them."""

    @property
    def skipped_P(self) -> np.ndarray:
        """bool: strength 1 or 2."""
        return counts_as_skipped(self.strengths_P)

    @property
    def kept_P(self) -> np.ndarray:
        """bool: neither skipped nor not known."""
        return counts_as_kept(self.strengths_P)

    @property
    def known_P(self) -> np.ndarray:
        """bool: it is known whether they were skipped."""
        return is_known(self.strengths_P)

    @property
    def position_P(self) -> np.ndarray:
        """int64: the plays of the session before this one."""
        return np.arange(len(self.tracks_P)) - self.start_P


def read_plays(store: SessionStore, split: Split) -> Iterator[Plays]:
    """Yields the row groups of a split. Where the dataset is split by position, every split is the whole dataset."""
    part = store.part(split)
    for group in range(len(part.group_sizes)):
        window = part.read(np.array([group]))
        lengths = np.diff(window.offsets)
        session_P = np.repeat(np.arange(len(lengths)), lengths)
        start_P, length_P = window.offsets[:-1][session_P], lengths[session_P]
        position_P = np.arange(len(session_P)) - start_P
        if store.unseen:
            trained_P, measured_P = np.full(len(session_P), split == "train"), (position_P > 0) & (split == "test")
        else:
            left_P = length_P - position_P
            trained_P, measured_P = left_P > HELD_OUT["validation"], (left_P == 1) & (position_P > 0)
        known_P = is_known(window.skips)
        yield Plays(
            window.tracks.astype(np.int64),
            window.skips,
            session_P,
            start_P,
            length_P,
            window.numbers[session_P],
            trained_P & known_P,
            measured_P & known_P,
        )
