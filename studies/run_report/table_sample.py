"""A seeded sample of a run's track table, read block by block, and its two main directions.

Shape legend: M sampled rows, D width.
"""

from typing import NamedTuple

import numpy as np

from skipwise.common.errors import UserError
from skipwise.training.checkpoint.saved_rows import SavedRows
from skipwise.training.run.directory import CHECKPOINTS, RunDirectory

_ROWS = 3000
_SEED = 0


class Sample(NamedTuple):
    """Rows of the best weights: int64 [M], ascending, of tracks that the data have; and float32 [M, D]."""

    row_M: np.ndarray
    rows_MD: np.ndarray


def read_sample(run: RunDirectory) -> Sample | None:
    """At most 3,000 rows, the same ones for runs of as many tracks; None where no weights are the best yet.

    Raises `UserError` for a damaged checkpoint.
    """
    if not (run.path / CHECKPOINTS / "best").exists():
        return None
    rows = SavedRows.of_best_table(run, "train again")
    tracks = min(run.record.counts["tracks"], run.record.num_rows)
    row_M = np.sort(np.random.default_rng(_SEED).choice(tracks, min(_ROWS, tracks), replace=False))
    rows_MD = np.concatenate([block.float().numpy() for _, block in rows.blocks(row_M)])
    if not np.isfinite(rows_MD).all():
        raise UserError(f"{run.path}: the table's best weights hold numbers that are not finite: train again")
    return Sample(row_M, rows_MD)


def main_directions(rows_MD: np.ndarray) -> tuple[np.ndarray, float]:
    """[M, 2] places along the two directions in which the rows vary most, and the share of all variance in them.

    Principal components by singular values. Each direction's sign is such that its largest weight is positive.
    """
    centred_MD = rows_MD.astype(np.float64) - rows_MD.mean(axis=0, dtype=np.float64)
    _, sizes, directions_KD = np.linalg.svd(centred_MD, full_matrices=False)
    largest = np.abs(directions_KD[:2]).argmax(axis=1)
    signs = np.sign(directions_KD[[0, 1], largest])
    total = float((sizes**2).sum())
    return centred_MD @ (directions_KD[:2] * signs[:, None]).T, float((sizes[:2] ** 2).sum()) / total if total else 0.0
