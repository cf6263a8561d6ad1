"""How often each track was played recently: what in-batch negatives are corrected by in a run that follows.

Counts with exponential decay, renewed by each part before it is trained on: a function of the parts alone, computed by
rank 0, and kept beside the record of rows, so that a run that goes on has the same. Of one part alone the counts would
correct for its own tracks, as if there were no others; over parts they are rates of the whole catalogue (Yi et al.,
"Sampling-Bias-Corrected Neural Modeling", RecSys 2019, keep a moving average of each track's rate for the same reason).
Shape legend: R rows of the table in use.
"""

from pathlib import Path

import numpy as np

from skipwise.common.errors import UserError, brief
from skipwise.common.files import replacing


def decayed(before_R: np.ndarray, plays_R: np.ndarray, half_life: float) -> np.ndarray:
    """float64 [R]: the counts before, decayed by one part, and this part's plays added.

    `before_R`: of the first rows; `half_life`: in parts.
    """
    found_R = plays_R.astype(np.float64)
    found_R[: len(before_R)] += before_R * 0.5 ** (1 / half_life)
    return found_R


def as_before(counts_R: np.ndarray, num_plays: int, half_life: float) -> np.ndarray:
    """float64 [R]: the plays of the first data, as if they had come in many parts of `num_plays` plays before.

    So they weigh as much as parts do, however many plays they have: half of them is left after a half-life.
    """
    return counts_R * (num_plays / (1 - 0.5 ** (1 / half_life)) / max(counts_R.sum(), 1))


def write(counts_R: np.ndarray, file: Path) -> None:
    """Writes the counts by one rename."""
    with replacing(file) as partial, open(partial, "wb") as stream:
        np.save(stream, counts_R, allow_pickle=False)


def read(file: Path) -> np.ndarray:
    """What `write` has written; raises `UserError` for anything else."""
    try:
        counts_R = np.load(file, allow_pickle=False)
        if counts_R.dtype != np.float64 or counts_R.ndim != 1 or not (np.isfinite(counts_R) & (counts_R >= 0)).all():
            raise ValueError("expected a list of counts")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{file} has no counts of plays ({brief(error)}): restore the file, or start another run from --init-from"
        ) from error
    return counts_R
