"""How well simple predictors predict the next skip, and what their information comes from."""

from typing import Any

import numpy as np

from skipwise.studies.audit import logistic
from skipwise.studies.audit.skip_samples import LAST, PAIR, SESSION, TRACK, Sample, Samples
from skipwise.studies.statistics import interval, per_session, ratio_per_session
from skipwise.training.evaluation.skip_measures import auc, mean_average_accuracy

COMBINED = "all together"
SOURCES = {"session": (LAST, SESSION), "track": (TRACK,), "pair": (PAIR,)}
"""The features of each source of information."""


def measure(samples: Samples) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of the predictors on the held-out plays, and the combined one's values of AUC [M]."""
    test, challenge = samples.test, samples.challenge_test
    scores, halves = _scores(samples.train, test), _scores(samples.challenge_train, challenge)
    figures: dict[str, Any] = {"plays": len(test.skipped_P), "sessions": len(np.unique(test.session_P)), "by": {}}
    for name, scores_P in scores.items():
        auc_M = auc(scores_P, test.skipped_P, test.session_P)
        right_P = ((scores_P > 0) == test.skipped_P).astype(float)
        average_M = mean_average_accuracy((halves[name] > 0) == challenge.skipped_P, challenge.session_P)
        figures["by"][name] = {
            "auc": _figure(auc_M),
            "accuracy": _figure(per_session(right_P, test.session_P)),
            "maa": _figure(average_M),
        }
    figures["explained"] = logistic.explained(
        (samples.train.features_PF, samples.train.skipped_P), (test.features_PF, test.skipped_P), SOURCES
    )
    pairs_M2 = np.concatenate(samples.pairs)
    figures["pairs"] = None
    if pairs_M2[:, 0].any():
        figures["pairs"] = _figure(ratio_per_session(pairs_M2[:, 1], pairs_M2[:, 0])) | {
            "pairs": int(pairs_M2[:, 0].sum())
        }
    return figures, auc_M


def _scores(train: Sample, test: Sample) -> dict[str, np.ndarray]:
    """Log-odds [P] of a skip by each predictor; the last one is fitted to the training plays."""
    features_PF = test.features_PF
    weights = logistic.fit(train.features_PF, train.skipped_P)
    return {
        "last flag": features_PF[:, LAST],
        "session's rate so far": features_PF[:, SESSION],
        "track's rate": features_PF[:, TRACK],
        "rate of track after track": features_PF[:, TRACK] + features_PF[:, PAIR],
        COMBINED: logistic.scores(features_PF, weights),
    }


def _figure(values_M: np.ndarray) -> dict[str, float]:
    low, high = interval(values_M)
    return {"value": float(values_M.mean()), "low": low, "high": high}
