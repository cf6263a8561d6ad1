"""AUC, mean average accuracy, calibration and pairs against their definitions as loops, SciPy and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchmetrics.classification import BinaryCalibrationError

from skipwise.studies.audit.play_stream import Plays
from skipwise.studies.audit.skip_samples import kept_over_skipped
from skipwise.studies.statistics import interval, per_session
from skipwise.training.evaluation.skip_measures import (
    CELLS,
    area,
    auc,
    bins,
    calibration,
    calibration_error,
    calibration_errors,
    mean_average_accuracy,
    pairs_in_order,
    second_half,
)

SCORED = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40).filter(
    lambda plays: len({skipped for _, skipped, _ in plays}) == 2
)
PLAY = st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans())
"""Its track, its score, and whether it was skipped."""
SESSIONS = st.lists(st.lists(PLAY, min_size=1, max_size=9), max_size=5)


def plays_of(sessions: list[list[tuple[int, int, bool]]]) -> Plays:
    lengths = np.array([len(session) for session in sessions], dtype=np.int64)
    session = np.repeat(np.arange(len(sessions)), lengths)
    tracks = np.array([track for plays in sessions for track, *_ in plays])
    strengths = np.array([2 * skipped for plays in sessions for *_, skipped in plays], dtype=np.int8)
    everything = np.ones(len(session), dtype=bool)
    start = (np.cumsum(lengths) - lengths)[session]
    return Plays(tracks, strengths, session, start, lengths[session], session, everything, everything)


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
            kept = next((place for place in range(position + 1, len(session)) if not session[place][2]), None)
            for skipped in range(position + 1, kept or 0):
                if session[skipped][0] != session[kept][0]:
                    better, worse = session[kept][1], session[skipped][1]
                    pairs, right = pairs + 1, right + (better > worse) + 0.5 * (better == worse)
        expected.append([pairs, right])
    scores = np.array([score for session in sessions for _, score, _ in session])
    assert kept_over_skipped(plays_of(sessions), scores).tolist() == expected


def test_pairs_of_a_target_by_hand():
    """Of 5, 3, 5, 7: the kept track 7 scores above 3, as much as the first 5, below the other. Of 7, 3, 7: 3 alone."""
    rows = np.array([[5, 3, 5, 7], [7, 3, 7, -1], [-1, -1, -1, -1]])
    scores = np.array([[2.0, 1.0, 3.0, 2.0], [9.0, 4.0, 1.0, 8.0], [0.0, 0.0, 0.0, 0.0]])
    pairs, won = pairs_in_order(rows, scores)
    assert pairs.tolist() == [3, 1, 0] and won.tolist() == [1.5, 0, 0]


def test_the_second_half_is_the_challenges():
    """Of 10 plays the last 5 and of 11 the last 6 (position * 2 > length, positions from 1); never the first play."""
    for plays in range(1, 24):
        expected = [position * 2 > plays and position > 1 for position in range(1, plays + 1)]
        assert second_half(np.arange(plays), np.full(plays, plays)).tolist() == expected


@given(SCORED)
def test_area_of_counts_is_that_of_plays(plays):
    scores, skipped, session = (np.array(column) for column in zip(*plays, strict=True))
    counts = [np.bincount(scores[chosen], minlength=5) for chosen in (skipped, ~skipped)]
    assert area(*counts) == pytest.approx(auc(scores, skipped, session).mean())
    assert area(counts[0], 0 * counts[1]) is None and area(0 * counts[0], counts[1]) is None


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40))
def test_calibration_error_is_torchmetrics(plays):
    probability, kept, session = (np.array(column) for column in zip(*plays, strict=True))
    # In the middle of a bin, so that no cell's edge is met.
    probability = (bins(probability) + 0.5) / (1000 * CELLS)
    expected = BinaryCalibrationError(n_bins=CELLS)(torch.tensor(probability), torch.tensor(kept).int())
    assert calibration_error(*calibration(probability, kept)) == pytest.approx(float(expected), abs=1e-6)
    values = per_session(calibration_errors(probability, kept), session)
    assert values.mean() == pytest.approx(float(expected), abs=1e-6)


def test_interval_of_the_calibration_error_is_that_of_resampled_sessions():
    random = np.random.default_rng(5)
    session = np.repeat(np.arange(200), 10)
    probability = random.random(len(session))
    kept = random.random(len(session)) < np.clip(probability + 0.15 + 0.2 * random.normal(size=200)[session], 0, 1)
    rows, resampled = [np.flatnonzero(session == number) for number in range(200)], []
    for _ in range(2000):
        drawn = np.concatenate([rows[number] for number in random.integers(200, size=200)])
        resampled.append(calibration_error(*calibration(probability[drawn], kept[drawn])))
    found = interval(per_session(calibration_errors(probability, kept), session))
    assert found == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.006)
