"""Bootstrap against SciPy's, Holm by hand, and tests that hold their level on data without a difference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.study.statistics import Difference, bootstrap_means, holm, interval, over_seeds, paired


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
    from training.study import statistics

    values = np.arange(50.0)
    whole = statistics.bootstrap_means(values, 100)
    monkeypatch.setattr(statistics, "_CHUNK", 7 * 50)
    assert np.array_equal(statistics.bootstrap_means(values, 100), whole)


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
