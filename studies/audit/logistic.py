"""Logistic regression with few features, and what each group of them explains.

Shape legend: P plays, F features.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np
from scipy.optimize import minimize

_RIDGE, _INTERCEPT_RIDGE = 1.0, 1e-3
"""Penalties of weights and intercept: half times their square, beside a sum over plays. They keep them finite."""


def fit(features_PF: np.ndarray, skipped_P: np.ndarray) -> np.ndarray:
    """[F + 1]: the weights of the features, and the intercept. Without plays all are 0."""
    design, signs_P = np.column_stack([features_PF, np.ones(len(features_PF))]), np.where(skipped_P, 1.0, -1.0)
    penalty = np.append(np.full(features_PF.shape[1], _RIDGE), _INTERCEPT_RIDGE)

    size = max(len(design), 1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins_P = signs_P * (design @ weights)
        slope_P = -signs_P * _sigmoid(-margins_P)
        value = np.logaddexp(0, -margins_P).sum() + 0.5 * penalty @ weights**2
        return value / size, (slope_P @ design + penalty * weights) / size

    def curvature(weights: np.ndarray) -> np.ndarray:
        share_P = _sigmoid(design @ weights)
        return (design.T * (share_P * (1 - share_P)) @ design + np.diag(penalty)) / size

    start = np.zeros(design.shape[1])
    return minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-8}).x


def scores(features_PF: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[P] log-odds of `fit`'s weights."""
    return features_PF @ weights[:-1] + weights[-1]


def log_loss(scores_P: np.ndarray, skipped_P: np.ndarray) -> float:
    """The mean of -log P(what happened), in nats."""
    return float(np.logaddexp(0, np.where(skipped_P, -scores_P, scores_P)).mean())


def explained(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """The share of the held-out deviance that all groups of features explain, divided among the groups.

    `train` and `test`: features [P, F] and flags [P]; `groups`: the features of each. The share is McFadden's (1974),
    1 - log-loss / log-loss of a constant. A group has the mean, over all orders in which groups can be added, of
    what it adds (Shapley 1953; for explained variance Lindeman, Merenda & Gold 1980). The sum is what all explain.
    """
    names = list(groups)
    value: dict[frozenset[str], float] = {}
    for size in range(len(names) + 1):
        for chosen in combinations(names, size):
            columns = [place for name in chosen for place in groups[name]]
            weights = fit(train[0][:, columns], train[1])
            value[frozenset(chosen)] = -log_loss(scores(test[0][:, columns], weights), test[1])
    constant = -value[frozenset()]
    return {
        name: sum(
            (value[others | {name}] - value[others]) / (constant * len(names) * comb(len(names) - 1, len(others)))
            for others in value
            if name not in others
        )
        for name in names
    }


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))
