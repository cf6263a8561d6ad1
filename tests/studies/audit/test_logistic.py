"""Logistic regression against known optima, and the division of what is explained."""

import numpy as np
import pytest
from scipy.special import expit

from skipwise.studies.audit import logistic


def test_weights_of_one_flag_are_its_log_odds():
    """3 of 4 are skipped where the flag is 1, 1 of 5 where it is 0; many plays, so that the penalty is nothing."""
    flag = np.repeat([1.0, 1.0, 0.0, 0.0], np.array([3, 1, 1, 4]) * 100_000)
    skipped = np.repeat([True, False, True, False], np.array([3, 1, 1, 4]) * 100_000)
    intercept = np.log(1 / 4)
    assert logistic.fit(flag[:, None], skipped) == pytest.approx([np.log(3) - intercept, intercept], abs=1e-3)


def test_the_gradient_of_the_penalized_loss_is_zero():
    random = np.random.default_rng(0)
    features = random.normal(size=(500, 3))
    skipped = random.random(500) < expit(features @ [1, -2, 0] + 0.5)
    weights = logistic.fit(features, skipped)
    slope = expit(logistic.scores(features, weights)) - skipped
    assert slope @ features + weights[:3] == pytest.approx(np.zeros(3), abs=1e-3)
    assert slope.sum() == pytest.approx(0, abs=2e-3)


def test_separable_plays_have_finite_weights():
    weights = logistic.fit(np.array([[-1.0], [1.0]]), np.array([False, True]))
    assert np.isfinite(weights).all() and weights[0] > 0


def test_plays_of_one_kind_and_none_at_all():
    kept = logistic.fit(np.array([[1.0], [2.0]]), np.array([False, False]))
    assert np.isfinite(kept).all() and (logistic.scores(np.array([[1.0], [2.0]]), kept) < 0).all()
    assert logistic.fit(np.zeros((0, 2)), np.zeros(0, dtype=bool)).tolist() == [0, 0, 0]


def test_log_loss_by_hand():
    scores = np.log([3, 1 / 4])  # P = 3/4 and 1/5
    assert logistic.log_loss(scores, np.array([True, False])) == pytest.approx(-(np.log(3 / 4) + np.log(4 / 5)) / 2)


def test_what_is_explained_is_divided_whole_and_evenly():
    random = np.random.default_rng(1)
    cause, noise = random.normal(size=(2, 20_000))
    skipped = random.random(20_000) < expit(2 * cause)
    data = np.column_stack([cause, cause, noise]), skipped
    shares = logistic.explained(data, data, {"one": (0,), "same": (1,), "noise": (2,)})
    weights = logistic.fit(data[0], skipped)
    constant = logistic.log_loss(np.full(20_000, np.log(skipped.mean() / (1 - skipped.mean()))), skipped)
    whole = 1 - logistic.log_loss(logistic.scores(data[0], weights), skipped) / constant
    assert sum(shares.values()) == pytest.approx(whole, abs=1e-6)
    assert shares["one"] == pytest.approx(shares["same"], abs=1e-4)
    assert shares["noise"] == pytest.approx(0, abs=1e-3)
