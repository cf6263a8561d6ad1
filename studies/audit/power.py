"""Which gain a dataset could show at all, and how many sessions it would take to show a smaller one.

Two sources of chance: which sessions are held out, which more sessions reduce, and the seed of training, which
more runs reduce. The smallest gain that a two-sided test at 5 % finds in 80 % of the cases is (1.96 + 0.84) standard
errors of the difference (Cohen, "Statistical Power Analysis", 1988). docs/audit.md, "Power", has the constants'
assumptions.
"""

from typing import Any

import numpy as np
from scipy.stats import norm

DISAGREEMENT = 0.2
"""Of a target, the chance that just one of the two models has it among the first 10."""
CLUSTERING = 0.1
"""The correlation of such differences between two targets of a session."""
LIKENESS = 0.75
"""The correlation of the two models' values of AUC over sessions."""
OVER_SEEDS = {"hr@10": 0.003, "auc": 0.001}
"""Standard deviation of a run's figure over seeds."""
GAINS = (0.01, 0.003)
RUNS = (1, 3)
_ERRORS = float(norm.ppf(0.975) + norm.ppf(0.8))


def power(targets: float, auc_M: np.ndarray, sessions: int) -> dict[str, Any]:
    """Figures for HR@10 and next-skip AUC with this many held-out sessions, of `targets` each on average.

    `auc_M`: the values of a predictor's AUC. `sessions_needed` leaves the variance over seeds out: many runs.
    """
    variances = {
        "hr@10": DISAGREEMENT * (1 + (targets - 1) * CLUSTERING) / targets,
        "auc": 2 * (1 - LIKENESS) * float(auc_M.var()),
    }
    return {
        measure: {
            "sessions": sessions,
            "variance": variance,
            "over_seeds": OVER_SEEDS[measure],
            "smallest_gain": {str(runs): smallest_gain(variance, OVER_SEEDS[measure], sessions, runs) for runs in RUNS},
            "sessions_needed": {str(gain): int(np.ceil(variance * (_ERRORS / gain) ** 2)) for gain in GAINS},
        }
        for measure, variance in variances.items()
    }


def smallest_gain(variance: float, over_seeds: float, sessions: int, runs: int) -> float:
    """`variance` of a session's difference; `over_seeds`: standard deviation; `runs`: seeds of either model."""
    return _ERRORS * float(np.sqrt(variance / sessions + 2 * over_seeds**2 / runs))
