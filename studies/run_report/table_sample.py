"""A seeded sample of a run's track table, read block by block, and its two main directions.

Shape legend: M sampled rows, D width.
"""

from dataclasses import dataclass

import numpy as np

from skipwise.common.errors import UserError
from skipwise.training.build import TABLE_WEIGHT
from skipwise.training.checkpoint.checkpoint_index import StorageError
from skipwise.training.checkpoint.checkpoints import best_checkpoint, open_checkpoint
from skipwise.training.checkpoint.state import MODEL
from skipwise.training.checkpoint.storage import read_rows
from skipwise.training.run.directory import CHECKPOINTS, RunDirectory

_WEIGHT = MODEL + TABLE_WEIGHT
_ROWS = 3000
_BLOCK_ROWS = 1 << 14
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """Rows of the best weights."""

    row_M: np.ndarray
    """int64, ascending: rows of tracks that the data have."""
    rows_MD: np.ndarray
    """float32."""


def read_sample(run: RunDirectory) -> Sample | None:
    """At most 3,000 rows, the same ones for runs of as many tracks; None where no weights are the best yet.

    Raises `UserError` for a damaged checkpoint.
    """
    if not (run.path / CHECKPOINTS / "best").exists():
        return None
    path = best_checkpoint(run.path)
    index = open_checkpoint(path)
    tracks = min(run.record.counts["tracks"], run.record.num_rows)
    shape = index["tensors"].get(_WEIGHT, {"shape": []})["shape"]
    if shape != [run.record.num_rows, run.config.table.dim]:
        raise UserError(f"{path}: '{_WEIGHT}' has shape {shape}, not that of the run's config: train again")
    chosen = np.random.default_rng(_SEED).choice(tracks, min(_ROWS, tracks), replace=False)
    row_M = np.sort(chosen)
    blocks = []
    for first in np.unique(row_M // _BLOCK_ROWS) * _BLOCK_ROWS:
        inside = row_M[(row_M >= first) & (row_M < first + _BLOCK_ROWS)]
        low, high = int(inside[0]), int(inside[-1]) + 1
        try:
            blocks.append(read_rows(path, index, _WEIGHT, low, high).float().numpy()[inside - low])
        except StorageError as error:
            raise UserError(f"{error}: expected a whole checkpoint; train again") from error
    rows_MD = np.concatenate(blocks)
    if not np.isfinite(rows_MD).all():
        raise UserError(f"{path}: '{_WEIGHT}' holds numbers that are not finite: train again")
    return Sample(row_M, rows_MD)


def main_directions(rows_MD: np.ndarray) -> tuple[np.ndarray, float]:
    """[M, 2] places along the two directions in which the rows vary most, and the share of all variance in them.

    Principal components by singular values. Each direction's sign is such that its largest weight is positive.
    """
    centred_MD = rows_MD.astype(np.float64) - rows_MD.mean(axis=0, dtype=np.float64)
    _, sizes, directions_KD = np.linalg.svd(centred_MD, full_matrices=False)
    largest = np.abs(directions_KD[:2]).argmax(axis=1)
    signs = np.sign(directions_KD[np.arange(len(largest)), largest])
    places = centred_MD @ (directions_KD[:2] * np.where(signs == 0, 1, signs)[:, None]).T
    places_M2 = np.zeros((len(rows_MD), 2))
    places_M2[:, : places.shape[1]] = places
    total = float((sizes**2).sum())
    return places_M2, float((sizes[:2] ** 2).sum()) / total if total else 0.0
