"""How well skips are foreseen, and whether what was kept ranks above what was skipped: the one definition, in NumPy.

Of models and of an audit's simple predictors. Where a function returns values [M], one a session, their mean is the
figure, and the mean of a resample of them is, to first order, the figure of those sessions.
Shape legend: P plays, M sessions, Q targets, W upcoming plays, V distinct scores, C cells of P(kept).
"""

import numpy as np

FORESEEN = {
    "next_skip_auc": "next-skip AUC",
    "next_skip_accuracy": "accuracy",
    "next_skip_maa": "MAA",
    "next_skip_ece": "ECE",
}
"""Figures of P(kept) of each target, and their names in tables."""
ORDERED = {"pairs_in_order": "pairs by ranking", "keep_pairs_in_order": "pairs by P(kept)"}
"""Shares of pairs that the ranking, and P(kept), have in order."""
CELLS = 15
"""Equal cells of P(kept) of the calibration error."""
BINS = 1000 * CELLS
"""Of P(kept); two probabilities in one bin count as a tie for the AUC."""


def bins(kept_probability_P: np.ndarray) -> np.ndarray:
    """int64 [P]: the bin of each probability, which is in cell `bin // (BINS // CELLS)`."""
    return np.minimum(kept_probability_P.astype(np.float64) * BINS, BINS - 1).astype(np.int64)


def placements(skipped_V: np.ndarray, kept_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[V] each, of how many plays have each score, ascending, the higher the more likely a skip.

    The share of the kept plays that score below, and the share of the skipped ones that score above; ties are half.
    The mean of the first over the skipped plays is the area under the ROC curve. Needs a kept and a skipped play.
    """
    kept_below_V = np.cumsum(kept_V) - kept_V / 2
    skipped_above_V = skipped_V.sum() - np.cumsum(skipped_V) + skipped_V / 2
    return kept_below_V / kept_V.sum(), skipped_above_V / skipped_V.sum()


def area(skipped_V: np.ndarray, kept_V: np.ndarray) -> float | None:
    """The area under the ROC curve of such counts; None where all plays are kept, or all skipped."""
    if not skipped_V.any() or not kept_V.any():
        return None
    return float(placements(skipped_V, kept_V)[0] @ skipped_V / skipped_V.sum())


def auc(scores_P: np.ndarray, skipped_P: np.ndarray, session_P: np.ndarray) -> np.ndarray:
    """[M] values of the area under the ROC curve of telling skipped plays, whose scores should be higher, from kept.

    The area is the chance that a skipped play scores above a kept one, ties counting half. A session's value has its
    plays' shares of that (DeLong, DeLong & Clarke-Pearson 1988; summed over clusters as in Obuchowski 1997). Needs a
    kept and a skipped play.
    """
    values, value_P = np.unique(scores_P, return_inverse=True)
    skips = np.bincount(value_P, skipped_P, len(values))
    keeps = np.bincount(value_P, ~skipped_P, len(values))
    kept_below_V, skipped_above_V = placements(skips, keeps)
    share_P = np.where(skipped_P, kept_below_V[value_P], skipped_above_V[value_P])
    whole = share_P[skipped_P].mean()
    sessions, place_P = np.unique(session_P, return_inverse=True)
    weight_P = len(sessions) / np.where(skipped_P, skips.sum(), keeps.sum())
    return whole + np.bincount(place_P, weight_P * (share_P - whole))


def mean_average_accuracy(correct_P: np.ndarray, session_P: np.ndarray) -> np.ndarray:
    """[M]: the average accuracy of each session, whose mean is the measure of MSSD's Sequential Skip Prediction
    Challenge (WSDM Cup 2019; Brost, Mehrotra & Jehan, "The Music Streaming Sessions Dataset", WWW 2019).

    `correct_P`: the plays of each session's second half, whose sessions follow each other. A play that is predicted
    right adds the accuracy of the half up to it; the sum is divided by the half's plays.
    """
    first_P = np.diff(session_P, prepend=session_P[:1] - 1) != 0
    place_P = np.cumsum(first_P) - 1
    start_P = np.flatnonzero(first_P)[place_P]
    right = np.concatenate([[0], np.cumsum(correct_P)])
    up_to_P = np.arange(1, len(correct_P) + 1)
    accuracy_P = (right[up_to_P] - right[start_P]) / (up_to_P - start_P)
    return np.bincount(place_P, accuracy_P * correct_P) / np.bincount(place_P)


def second_half(position_P: np.ndarray, plays_P: np.ndarray) -> np.ndarray:
    """bool [P]: plays of the half that the challenge predicts, its longer one: from place `plays // 2`, counted from 0.

    `position_P`: the plays of the session before each; `plays_P`: all plays of the session. Its first is in neither.
    """
    return (position_P >= plays_P // 2) & (position_P > 0)


def calibration(kept_probability_P: np.ndarray, kept_P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[C] each, by cells of P(kept): how many plays, the sum of their probabilities, and how many were kept."""
    cell_P = bins(kept_probability_P) // (BINS // CELLS)
    weights = (None, kept_probability_P, kept_P)
    plays_C, probability_C, kept_C = (np.bincount(cell_P, values, CELLS) for values in weights)
    return plays_C, probability_C, kept_C


def calibration_error(plays_C: np.ndarray, probability_C: np.ndarray, kept_C: np.ndarray) -> float:
    """The expected calibration error of `calibration`'s sums: the plays' mean of |P(kept) - share kept| of their cell
    (Naeini, Cooper & Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015)."""
    return float(np.abs(probability_C - kept_C).sum() / plays_C.sum())


def calibration_errors(kept_probability_P: np.ndarray, kept_P: np.ndarray) -> np.ndarray:
    """[P] values whose mean is the calibration error, with each cell's sign held where a resample may turn it."""
    _, probability_C, kept_C = calibration(kept_probability_P, kept_P)
    sign_C = np.sign(probability_C - kept_C)
    return sign_C[bins(kept_probability_P) // (BINS // CELLS)] * (kept_probability_P - kept_P)


def pairs_in_order(rows_QW: np.ndarray, scores_QW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[Q] each: the pairs of a kept track and each one skipped before it, and how many score in order, ties half.

    `rows_QW`: tracks in play order, the last one kept and all before it skipped, -1 behind them. Plays of the kept
    track itself are no pairs.
    """
    last_Q1 = np.maximum((rows_QW >= 0).sum(axis=1, keepdims=True) - 1, 0)
    kept_Q1, score_Q1 = (np.take_along_axis(values_QW, last_Q1, axis=1) for values_QW in (rows_QW, scores_QW))
    pair_QW = (np.arange(rows_QW.shape[1]) < last_Q1) & (rows_QW != kept_Q1)
    won_QW = pair_QW * ((scores_QW < score_Q1) + (scores_QW == score_Q1) / 2)
    return pair_QW.sum(axis=1), won_QW.sum(axis=1)
