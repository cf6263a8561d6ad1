"""How well scores tell skipped plays from kept ones, with the share of each session for intervals over sessions.

Shape legend: P plays, M sessions.
"""

import numpy as np

from skipwise.studies.audit.play_stream import Plays


def auc(scores_P: np.ndarray, skipped_P: np.ndarray, session_P: np.ndarray) -> np.ndarray:
    """[M]: values whose mean is the area under the ROC curve, and whose resampled means are, to first order, its own.

    The area is the chance that a skipped play scores above a kept one, ties counting half. A session's value has its
    plays' shares of that (DeLong, DeLong & Clarke-Pearson 1988; summed over clusters as in Obuchowski 1997). Needs a
    kept and a skipped play.
    """
    values, value_P = np.unique(scores_P, return_inverse=True)
    skips = np.bincount(value_P, skipped_P, len(values))
    keeps = np.bincount(value_P, ~skipped_P, len(values))
    kept_below, skipped_above = np.cumsum(keeps) - keeps / 2, skips.sum() - np.cumsum(skips) + skips / 2
    share_P = np.where(skipped_P, kept_below[value_P] / keeps.sum(), skipped_above[value_P] / skips.sum())
    area = share_P[skipped_P].mean()
    sessions, place_P = np.unique(session_P, return_inverse=True)
    weight_P = len(sessions) / np.where(skipped_P, skips.sum(), keeps.sum())
    return area + np.bincount(place_P, weight_P * (share_P - area))


def mean_average_accuracy(correct_P: np.ndarray, session_P: np.ndarray) -> np.ndarray:
    """[M]: the average accuracy of each session, whose mean is MSSD's challenge's measure.

    A session's plays follow each other. Each play adds, where it is predicted right, the accuracy of the session's
    plays up to it; the sum is divided by the session's plays (Brost, Mehrotra & Jehan, "The Music Streaming Sessions
    Dataset", WWW 2019).
    """
    first_P = np.diff(session_P, prepend=session_P[0] - 1) != 0
    place_P = np.cumsum(first_P) - 1
    start_P = np.flatnonzero(first_P)[place_P]
    right = np.concatenate([[0], np.cumsum(correct_P)])
    up_to_P = np.arange(1, len(correct_P) + 1)
    accuracy_P = (right[up_to_P] - right[start_P]) / (up_to_P - start_P)
    return np.bincount(place_P, accuracy_P * correct_P) / np.bincount(place_P)


def kept_over_skipped(plays: Plays, scores_P: np.ndarray) -> np.ndarray:
    """[M, 2]: pairs of each session, and how many have the kept track above the skipped one, ties counting half.

    At each position the next track that is kept is compared with each that is skipped before it. So a skipped track
    counts once for each position between it and the kept play before it, or the session's first play.
    """
    place_P, kept_P = np.arange(len(scores_P)), ~plays.skipped_P
    from_P = np.maximum(np.maximum.accumulate(np.where(kept_P, place_P, 0)), plays.start_P)
    next_P = np.minimum.accumulate(np.where(kept_P, place_P, len(place_P))[::-1])[::-1]
    there_P = ~kept_P & (next_P < plays.start_P + plays.length_P)
    weight_P = np.where(there_P, place_P - from_P, 0)
    other_P = scores_P[np.where(there_P, next_P, place_P)]
    right_P = weight_P * ((other_P > scores_P) + 0.5 * (other_P == scores_P))
    return np.column_stack([np.bincount(plays.session_P, weights) for weights in (weight_P, right_P)])
