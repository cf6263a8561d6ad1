"""What is known of a play before it is heard, as features of a logistic regression, for samples of plays.

A feature is in log-odds, so that it is a score by itself: above 0 it says that the play will be skipped.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit.play_stream import Plays, read_plays
from skipwise.studies.audit.skip_tables import SkipTables
from skipwise.training.evaluation.skip_measures import pairs_in_order, second_half

MOST_PLAYS = 3_000_000
"""Plays of training, and of test sessions, that are read for samples: the first ones, in the order of a hash."""
SESSION_SMOOTHING = 1.0
"""The session's rate counts this many plays more, at the average rate."""
LAST, SESSION, TRACK, PAIR = range(4)
"""The features: the last flag, the session's skip rate so far, the track's, and the pair's beyond the track's."""


@dataclass
class Sample:
    """Plays with their features, gathered row group by row group."""

    _pieces: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, chosen_P: np.ndarray, *columns: np.ndarray) -> None:
        """Takes the chosen plays; `columns`: features, flags and session numbers."""
        self._pieces.append(tuple(column[chosen_P] for column in columns))

    @cached_property
    def features_PF(self) -> np.ndarray:
        """float64."""
        return self._column(0)

    @cached_property
    def skipped_P(self) -> np.ndarray:
        """bool."""
        return self._column(1)

    @cached_property
    def session_P(self) -> np.ndarray:
        """int64: numbers in the dataset."""
        return self._column(2)

    def _column(self, place: int) -> np.ndarray:
        return np.concatenate([piece[place] for piece in self._pieces])


@dataclass(frozen=True)
class Samples:
    """Of training plays and of held-out ones: with all flags before the play known, and as in MSSD's challenge."""

    train: Sample = field(default_factory=Sample)
    test: Sample = field(default_factory=Sample)
    challenge_train: Sample = field(default_factory=Sample)
    challenge_test: Sample = field(default_factory=Sample)
    pairs: list[np.ndarray] = field(default_factory=list)
    """[M, 2] a row group: a session's pairs of a kept and a skipped track, and those that are ordered right."""


def read_samples(store: SessionStore, tables: SkipTables) -> Samples:
    """Reads training and test sessions.

    In the challenge the flags of a session's second half are not known, and all of that half is predicted. Of a dataset
    that is split by position, this half and the pairs are those of all sessions; their own plays do not count for them.
    """
    samples = Samples()
    for split in ("train", "test") if store.unseen else ("test",):
        read = 0
        for plays in read_plays(store, split):
            if read > MOST_PLAYS:
                break
            read += len(plays.tracks_P)
            track_P, pair_P = tables.rates(plays)
            position_P, half_P = plays.position_P, plays.length_P // 2
            known = plays.skipped_P, plays.number_P
            next_P = _features(plays, position_P, track_P, pair_P, tables.rate), *known
            half = _features(plays, np.minimum(position_P, half_P), track_P, pair_P, tables.rate), *known
            second_P = second_half(position_P, plays.length_P) & plays.known_P
            samples.train.add(plays.trained_P & (position_P > 0), *next_P)
            samples.challenge_train.add(plays.trained_P & second_P, *half)
            if split == "test":
                samples.test.add(plays.measured_P, *next_P)
                samples.challenge_test.add(second_P, *half)
                samples.pairs.append(kept_over_skipped(plays, 1 - track_P))
    return samples


def kept_over_skipped(plays: Plays, scores_P: np.ndarray) -> np.ndarray:
    """[M, 2]: pairs of each session, and how many have the kept track above the skipped one, ties counting half.

    At each position the next track that is kept is compared with each that is skipped before it. So a skipped track
    counts once for each position between it and the play before it that is not skipped, or the session's first play.
    Skipped tracks before one of which it is not known are in no pair.
    """
    place_P, ends_P = np.arange(len(scores_P)), ~plays.skipped_P
    from_P = np.maximum(np.maximum.accumulate(np.where(ends_P, place_P, 0)), plays.start_P)
    next_P = np.minimum.accumulate(np.where(ends_P, place_P, len(place_P))[::-1])[::-1]
    there_P = ~ends_P & (next_P < plays.start_P + plays.length_P) & np.append(plays.kept_P, False)[next_P]
    both_P2 = np.column_stack([place_P, np.where(there_P, next_P, place_P)])
    found = pairs_in_order(plays.tracks_P[both_P2], scores_P[both_P2])
    times_P = np.where(there_P, place_P - from_P, 0)
    return np.column_stack([np.bincount(plays.session_P, times_P * values_P) for values_P in found])


def _features(plays: Plays, known_P: np.ndarray, track_P: np.ndarray, pair_P: np.ndarray, rate: float) -> np.ndarray:
    """[P, F], where the flags of the session's first `known_P` plays are known."""
    skips = np.concatenate([[0], np.cumsum(plays.skipped_P)])
    before_P = skips[plays.start_P + known_P] - skips[plays.start_P]
    told = np.concatenate([[0], np.cumsum(plays.known_P)])
    told_P = told[plays.start_P + known_P] - told[plays.start_P]
    session_P = (before_P + SESSION_SMOOTHING * rate) / (told_P + SESSION_SMOOTHING)
    at_P = plays.start_P + np.maximum(known_P, 1) - 1
    last_P = np.where(plays.known_P[at_P], plays.skipped_P[at_P] - 0.5, 0)
    track_logit_P = _logit(track_P)
    return np.column_stack([last_P, _logit(session_P), track_logit_P, _logit(pair_P) - track_logit_P])


def _logit(share_P: np.ndarray) -> np.ndarray:
    return np.log(share_P / (1 - share_P))
