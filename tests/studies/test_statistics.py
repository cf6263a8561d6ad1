"""Bootstrap against SciPy's, Holm by hand, and tests that hold their level on data without a difference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skipwise.studies import statistics
from skipwise.studies.statistics import (
    Difference,
    bootstrap_means,
    gap,
    holm,
    interval,
    over_seeds,
    paired,
    per_session,
)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_interval_of_a_share_is_the_binomials(share: float):
    values = np.zeros(2000)
    values[: int(2000 * share)] = 1
    expected = stats.binom.ppf([0.025, 0.975], 2000, share) / 2000
    assert interval(values) == pytest.approx(expected, abs=0.001)


def test_interval_is_scipys_bootstrap():
    values = np.random.default_rng(0).exponential(size=150)
    result = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert interval(values) == pytest.approx(tuple(result.confidence_interval), abs=0.01)


def test_resamples_have_the_bootstraps_mean_and_deviation():
    values = np.random.default_rng(0).normal(size=400)
    means = bootstrap_means(values)
    assert len(means) == 10_000
    assert means.mean() == pytest.approx(values.mean(), abs=3 * values.std() / 20 / 100)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.03)


def test_chunks_change_nothing_but_the_memory(monkeypatch):
    values = np.arange(50.0)
    whole = statistics.bootstrap_means(values, 100)
    monkeypatch.setattr(statistics, "_CHUNK", 7 * 50)
    assert np.array_equal(statistics.bootstrap_means(values, 100), whole)


def test_many_values_are_pooled_and_the_distribution_stays(monkeypatch):
    """Half of the values are 1, the others all different."""
    values = 1 / np.random.default_rng(4).pareto(1, size=5000).clip(1)
    pooled = bootstrap_means(values, 4000)
    assert len(np.unique(values)) > statistics._DISTINCT
    monkeypatch.setattr(statistics, "_DISTINCT", 10_000)
    exact = bootstrap_means(values, 4000)
    assert pooled.mean() == pytest.approx(exact.mean(), abs=5 * exact.std() / 4000**0.5)
    assert pooled.std() == pytest.approx(exact.std(), rel=0.05)
    assert np.quantile(pooled, [0.025, 0.975]) == pytest.approx(np.quantile(exact, [0.025, 0.975]), abs=exact.std() / 5)


@given(st.integers(0, 1000), st.floats(0.1, 9))
def test_pooling_keeps_mean_and_variance(seed: int, power: float):
    values = np.unique(np.random.default_rng(seed).random(3000) ** power)
    counts = np.random.default_rng(seed).integers(1, 5, len(values))
    points, sizes = statistics._pooled(values, counts)
    assert len(points) <= statistics._DISTINCT and sizes.sum() == counts.sum()
    before, after = np.repeat(values, counts), np.repeat(points, sizes)
    assert after.mean() == pytest.approx(before.mean(), rel=1e-9)
    assert after.var() == pytest.approx(before.var(), rel=1e-9)


def test_thirds_that_cancel_are_a_tie():
    """Two sessions, three seeds: half of all resamples are ties, so that neither side of zero is below 3/4."""
    row, baseline = np.array([3, 1]) / 3, np.array([2, 2]) / 3
    assert (row - baseline).sum() != 0
    assert paired(row, baseline).p == 1


def test_gap_is_the_difference_of_two_samples():
    random = np.random.default_rng(5)
    values, marked = random.normal(size=600), np.arange(600) < 200
    values[marked] = 3 * values[marked] + 2
    mean, low, high = gap(values, marked, np.arange(600))
    assert mean == pytest.approx(values[:200].mean() - values[200:].mean())
    error = (values[:200].var() / 200 + values[200:].var() / 400) ** 0.5
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)


def test_sides_of_a_gap_are_drawn_apart():
    """Alike on both sides: one stream for both would make every gap nought."""
    mean, low, high = gap(np.tile([0.0, 1.0], 100), np.arange(200) < 100, np.arange(200))
    assert mean == 0 and low < -0.1 and high > 0.1


def test_shares_of_sessions_by_hand():
    """Session 5 has three targets, session 9 one: the mean is 2 / 4, a session has 2 targets on average."""
    values, sessions = np.array([1.0, 0.0, 1.0, 0.0]), np.array([5, 5, 5, 9])
    assert per_session(values, sessions) == pytest.approx([0.5 + (2 - 1.5) / 2, 0.5 + (0 - 0.5) / 2])
    # The third target is left out: the mean is 1 / 3, and a session has 1.5 targets on average.
    chosen = np.array([True, True, False, True])
    assert per_session(values, sessions, chosen) == pytest.approx([1 / 3 + (1 - 2 / 3) / 1.5, 1 / 3 - 1 / 3 / 1.5])
    # A session without a chosen target adds nothing to the difference from the mean.
    assert per_session(values, sessions, sessions == 5) == pytest.approx([2 / 3, 2 / 3])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 99))
def test_one_target_a_session_is_its_own_value(values: list[float], first: int):
    """To the bit: the least rounding would make a tie of two models a difference."""
    assert per_session(np.array(values), first + np.arange(len(values))).tolist() == values


def targets(seed: int, sessions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [N], sessions [N] and marks [N] of one to nine targets a session, which are much alike within it."""
    random = np.random.default_rng(seed)
    session_N = np.repeat(np.arange(sessions) * 3, random.integers(1, 10, sessions))
    level_N = random.random(sessions)[session_N // 3]
    return (random.random(len(session_N)) < level_N).astype(float), session_N, random.random(len(session_N)) < 0.4


@given(st.integers(0, 1000), st.integers(1, 30), st.booleans())
def test_the_mean_over_sessions_is_that_of_targets(seed: int, sessions: int, some: bool):
    values, session_N, chosen = targets(seed, sessions)
    chosen[0] = True
    found = per_session(values, session_N, chosen if some else None)
    assert len(found) == sessions
    assert found.mean() == pytest.approx((values[chosen] if some else values).mean())


def test_identical_targets_of_a_session_add_no_certainty():
    values = (np.random.default_rng(6).random(200) < 0.3).astype(float)
    once = interval(values)
    assert interval(per_session(np.repeat(values, 9), np.repeat(np.arange(200), 9))) == once
    assert once[1] - once[0] > 2 * np.diff(interval(np.repeat(values, 9)))[0], "as if there were nine times as many"


def resampled(seed: int, sessions: int, figure) -> np.ndarray:
    """The middle 95 % of `figure` of the targets of sessions that are drawn with replacement."""
    values, session_N, marked = targets(seed, sessions)
    members = [np.flatnonzero(session_N == session) for session in np.unique(session_N)]
    random = np.random.default_rng(1)
    drawn = [np.concatenate([members[one] for one in random.integers(0, sessions, sessions)]) for _ in range(2000)]
    return np.quantile([figure(values[drawn_N], marked[drawn_N]) for drawn_N in drawn], [0.025, 0.975])


def test_several_targets_a_session_against_resampled_sessions():
    values, session_N, marked = targets(7, 300)
    expected = resampled(7, 300, lambda values, _: values.mean())
    found, width = interval(per_session(values, session_N)), np.diff(expected)[0]
    assert found == pytest.approx(expected, abs=0.06 * width)
    assert np.diff(interval(values))[0] < 0.75 * width, "targets by themselves would be too sure"
    some = interval(per_session(values, session_N, marked))
    expected = resampled(7, 300, lambda values, marked: values[marked].mean())
    assert some == pytest.approx(expected, abs=0.06 * np.diff(expected)[0])


def test_gap_of_several_targets_a_session_against_resampled_sessions():
    values, session_N, marked = targets(8, 300)
    mean, low, high = gap(values, marked, session_N)
    assert mean == pytest.approx(values[marked].mean() - values[~marked].mean())
    expected = resampled(8, 300, lambda values, marked: values[marked].mean() - values[~marked].mean())
    assert (low, high) == pytest.approx(expected, abs=0.06 * np.diff(expected)[0])


def test_paired_sees_a_difference_that_unpaired_noise_hides():
    random = np.random.default_rng(1)
    baseline = random.normal(size=1000) * 10
    row = baseline + 0.1 + 0.5 * random.normal(size=1000)
    found = paired(row, baseline)
    assert found.p < 0.001 and found.low > 0
    assert found.mean == pytest.approx((row - baseline).mean())
    mirrored = paired(baseline, row)
    assert (mirrored.mean, mirrored.p) == (pytest.approx(-found.mean), pytest.approx(found.p))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=0.005)


def test_equal_rows_differ_in_nothing():
    values = np.random.default_rng(2).random(100)
    assert paired(values, values) == Difference(0.0, 0.0, 0.0, 1.0)


def test_the_level_is_held_without_a_difference():
    """McNemar-like data: 300 sessions, a tenth of which either model wins by chance."""
    random = np.random.default_rng(3)
    p_values = []
    for _ in range(300):
        won = random.choice([-1.0, 0.0, 1.0], p=[0.05, 0.9, 0.05], size=300)
        p_values.append(paired(won, np.zeros(300)).p)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_seeds_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, t = 2 * sqrt(3) with two degrees of freedom."""
    p = over_seeds(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert p == pytest.approx(2 * stats.t.sf(2 * 3**0.5, 2))
    assert over_seeds(np.array([1.0]), np.array([2.0])) is None
    assert over_seeds(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values: list[float]):
    adjusted = holm(p_values)
    for p, after in zip(p_values, adjusted, strict=True):
        assert p <= after <= min(1.0, p * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)
