"""AUC, mean average accuracy and pairs against their definitions, written out as loops, and against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skipwise.studies.audit.play_stream import Plays
from skipwise.studies.audit.skip_measures import auc, kept_over_skipped, mean_average_accuracy
from skipwise.studies.statistics import interval

SCORED = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40).filter(
    lambda plays: len({skipped for _, skipped, _ in plays}) == 2
)
SESSIONS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=9), max_size=5)


def plays_of(sessions: list[list[bool]]) -> Plays:
    lengths = np.array([len(session) for session in sessions], dtype=np.int64)
    session = np.repeat(np.arange(len(sessions)), lengths)
    strengths = np.array([2 * skipped for flags in sessions for skipped in flags], dtype=np.int8)
    everything = np.ones(len(session), dtype=bool)
    start = (np.cumsum(lengths) - lengths)[session]
    return Plays(session, strengths, session, start, lengths[session], session, everything, everything)


@given(SCORED)
def test_auc_is_the_share_of_pairs(plays):
    scores, skipped, session = (np.array(column) for column in zip(*plays, strict=True))
    pairs = [float(a > b) + 0.5 * float(a == b) for a in scores[skipped] for b in scores[~skipped]]
    values = auc(scores, skipped, session)
    assert len(values) == len(set(session.tolist()))
    assert values.mean() == pytest.approx(np.mean(pairs))
    statistic = stats.mannwhitneyu(scores[skipped], scores[~skipped]).statistic
    assert values.mean() == pytest.approx(statistic / len(pairs))


def test_interval_of_auc_is_that_of_resampled_sessions():
    random = np.random.default_rng(3)
    session = np.repeat(np.arange(150), 8)
    mood = random.normal(size=150)[session]
    skipped = mood + random.normal(size=len(session)) > 0
    scores = mood + random.normal(size=len(session))
    rows = [np.flatnonzero(session == number) for number in range(150)]
    resampled = []
    for _ in range(2000):
        drawn = np.concatenate([rows[number] for number in random.integers(150, size=150)])
        ones, zeros = scores[drawn][skipped[drawn]], scores[drawn][~skipped[drawn]]
        resampled.append(stats.mannwhitneyu(ones, zeros).statistic / (len(ones) * len(zeros)))
    assert interval(auc(scores, skipped, session)) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.004)


def test_mean_average_accuracy_by_hand():
    """Right, wrong, right: (1/1 + 2/3) / 3. Wrong, right: (1/2) / 2. None right: 0."""
    correct = np.array([True, False, True, False, True, False])
    session = np.array([7, 7, 7, 2, 2, 9])
    assert mean_average_accuracy(correct, session) == pytest.approx([5 / 9, 1 / 4, 0])


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=8), min_size=1, max_size=6))
def test_mean_average_accuracy_is_its_definition(sessions):
    expected = []
    for correct in sessions:
        accuracies = [sum(correct[: place + 1]) / (place + 1) for place in range(len(correct))]
        expected.append(sum(accuracies[place] for place in range(len(correct)) if correct[place]) / len(correct))
    flat = np.array([right for correct in sessions for right in correct])
    session = np.repeat(np.arange(len(sessions)), [len(correct) for correct in sessions])
    assert mean_average_accuracy(flat, session) == pytest.approx(expected)


@given(SESSIONS.filter(len))
def test_pairs_are_those_of_each_position(sessions):
    expected = []
    for session in sessions:
        pairs = right = 0.0
        for position in range(len(session)):
            kept = next((place for place in range(position + 1, len(session)) if not session[place][1]), None)
            for skipped in range(position + 1, kept or 0):
                better, worse = session[kept][0], session[skipped][0]
                pairs, right = pairs + 1, right + (better > worse) + 0.5 * (better == worse)
        expected.append([pairs, right])
    plays = plays_of([[skipped for _, skipped in session] for session in sessions])
    scores = np.array([score for session in sessions for score, _ in session])
    assert kept_over_skipped(plays, scores).tolist() == expected
