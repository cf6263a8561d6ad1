"""Rates of tracks and pairs against a count over all other sessions, play by play."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit import skip_tables
from skipwise.studies.audit.play_stream import read_plays
from skipwise.studies.audit.skip_tables import PAIR_SMOOTHING, TRACK_SMOOTHING, SkipTables

PLAYS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 1, 2, 3, -1])), min_size=3, max_size=7)


@given(st.lists(PLAYS, min_size=6, max_size=12), st.booleans(), st.integers(1, 30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rates_are_what_other_sessions_say(make_dataset, monkeypatch, drawn, by_session, least_merge):
    monkeypatch.setattr(skip_tables, "_LEAST_MERGE", least_merge)
    sessions = [tuple(map(list, zip(*session, strict=True))) for session in drawn]
    test, validation = 2, 1
    split = {"test": test, "train": len(sessions) - test - validation, "validation": validation} if by_session else None
    store = SessionStore(str(make_dataset(sessions, 4, 2, split=split)))
    tables = SkipTables(4)
    for plays in read_plays(store, "train"):
        tables.add(plays)
    trained = []  # session, track before, track, skipped
    for number, (tracks, strengths) in enumerate(sessions):
        size = len(tracks) - 2 if not by_session else len(tracks) * (test <= number < len(sessions) - validation)
        before = [None, *tracks]
        trained += [
            (number, before[place], tracks[place], strengths[place] in (1, 2))
            for place in range(size)
            if strengths[place] >= 0
        ]
    assume(trained)
    rate = np.mean([skipped for *_, skipped in trained])
    assert tables.rate == pytest.approx(rate)
    for plays in read_plays(store, "test"):
        track, pair = tables.rates(plays)
        for place, (number, row) in enumerate(zip(plays.number_P, plays.tracks_P, strict=True)):
            others = [item for item in trained if item[0] != number and item[2] == row]
            smoothed = (sum(item[3] for item in others) + TRACK_SMOOTHING * rate) / (len(others) + TRACK_SMOOTHING)
            assert track[place] == pytest.approx(smoothed)
            if plays.position_P[place]:
                pairs = [item[3] for item in others if item[1] == plays.tracks_P[place - 1]]
                assert pair[place] == pytest.approx(
                    (sum(pairs) + PAIR_SMOOTHING * smoothed) / (len(pairs) + PAIR_SMOOTHING)
                )
