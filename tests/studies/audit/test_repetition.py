"""Duplicates and repeats of sessions that are counted by hand."""

import pytest

from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit.repetition import repetition

WALKS = [[0, 1, 2], [2, 1, 0], [0, 1, 2], [0, 1, 2, 3], [4, 4, 5], [4, 5, 4], [4, 4, 4], [4, 4, 4]]


def test_duplicates_and_repeats(make_dataset):
    """Sessions 2 and 7 are there before; 4 to 7 play a track again, 1 + 1 + 2 + 2 times of 25 plays."""
    store = SessionStore(str(make_dataset([(walk, [0] * len(walk)) for walk in WALKS], 6, 3)))
    assert repetition(store) == pytest.approx(
        {
            "duplicate_sessions": 2 / 8,
            "test_sessions_in_training": None,
            "sessions_with_a_repeated_track": 4 / 8,
            "repeated_plays": 6 / 25,
        }
    )


def test_test_sessions_in_training(make_dataset):
    """The first three sessions are test, the next four training. No test session is in training, then two are."""
    sessions = [(walk, [0] * len(walk)) for walk in WALKS]
    split = {"test": 3, "train": 4, "validation": 1}
    assert repetition(SessionStore(str(make_dataset(sessions, 6, split=split))))["test_sessions_in_training"] == 0
    sessions = [sessions[place] for place in (2, 7, 1, 0, 3, 6, 5, 4)]
    figures = repetition(SessionStore(str(make_dataset(sessions, 6, split=split))))
    assert figures["test_sessions_in_training"] == pytest.approx(2 / 3)
    assert figures["duplicate_sessions"] == pytest.approx(2 / 8)
