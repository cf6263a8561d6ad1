"""Power against a simulation of the test that it speaks of, and by hand."""

import numpy as np
import pytest

from skipwise.studies.audit.power import CLUSTERING, DISAGREEMENT, power, smallest_gain


@pytest.mark.parametrize("runs", [1, 3])
def test_the_smallest_gain_is_found_in_four_of_five_cases(runs: int):
    random = np.random.default_rng(runs)
    variance, over_seeds, sessions = 0.2, 0.01, 500
    gain = smallest_gain(variance, over_seeds, sessions, runs)
    error = np.sqrt(variance / sessions + 2 * over_seeds**2 / runs)
    seen = random.normal(gain, np.sqrt(variance / sessions), 20_000)
    seen += (random.normal(0, over_seeds, (20_000, runs)) - random.normal(0, over_seeds, (20_000, runs))).mean(axis=1)
    assert (np.abs(seen) > 1.96 * error).mean() == pytest.approx(0.8, abs=0.01)


def test_figures_by_hand():
    """(1.95996 + 0.84162)^2 = 7.8489; one target a session has a variance of .2, and ten of .2 * 1.9 / 10 = .038."""
    auc = np.array([0.6, 0.8])  # variance .01, halved by the likeness of two models
    one, ten = power(1.0, auc, 2000), power(10.0, auc, 2000)
    assert one["hr@10"]["variance"] == pytest.approx(DISAGREEMENT)
    assert ten["hr@10"]["variance"] == pytest.approx(DISAGREEMENT * (1 + 9 * CLUSTERING) / 10)
    assert one["hr@10"]["sessions_needed"] == {"0.01": 15_698, "0.003": 174_420}
    assert ten["auc"]["sessions_needed"]["0.01"] == 393
    assert one["hr@10"]["smallest_gain"]["1"] == pytest.approx(2.80159 * np.sqrt(0.2 / 2000 + 2 * 0.003**2), rel=1e-5)
