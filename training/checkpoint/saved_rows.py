"""Rows of a run's table as a checkpoint holds them, read block by block: no rank holds the whole table.

Shape legend: X rows that are read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from skipwise.common.distributed import on_rank_0
from skipwise.common.errors import UserError
from skipwise.common.tables import read_table
from skipwise.training.build import TABLE_WEIGHT
from skipwise.training.checkpoint.checkpoint_index import CheckpointIndex
from skipwise.training.checkpoint.checkpoints import best_checkpoint, open_checkpoint
from skipwise.training.checkpoint.state import MODEL
from skipwise.training.checkpoint.storage import read_rows
from skipwise.training.run.directory import RunDirectory

_BLOCK_ROWS = 1 << 16


class SavedRows:
    """The rows of one tensor of a checkpoint."""

    def __init__(self, path: Path, index: CheckpointIndex, name: str, remedy: str):
        """`remedy`: what the user can do about damaged files."""
        self._path, self._index, self._name, self._remedy = path, index, name, remedy

    @classmethod
    def of_best_table(cls, run: RunDirectory, remedy: str) -> "SavedRows":
        """The table of a run's best weights; all ranks call it together."""
        path, name = on_rank_0(lambda: best_checkpoint(run.path)), MODEL + TABLE_WEIGHT
        index, expected = open_checkpoint(path), [run.table_rows, run.config.row_table.dim]
        if (shape := index.shape_of(name)) != expected:
            raise UserError(f"{path}: '{name}' has shape {shape}, expected {expected}: {remedy}")
        return cls(path, index, name, remedy)

    def blocks(self, row_X: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """Reads rows [X] in ascending order: yields slices of X with their rows, each slice within 65,536 rows."""
        first = 0
        while first < len(row_X):
            last = int(np.searchsorted(row_X, row_X[first] + _BLOCK_ROWS))
            low, high = int(row_X[first]), int(row_X[last - 1]) + 1
            try:
                block = read_rows(self._path, self._index, self._name, low, high)
            except OSError as error:
                raise UserError(f"{error}: expected a whole checkpoint; {self._remedy}") from error
            yield slice(first, last), block[row_X[first:last] - low]
            first = last


def read_matches(file: Path, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads which rows of another table belong to this table's rows from `first` up to `last`.

    Returns the rows and those of the other table, int64 [X] each, in ascending order of the latter.
    """
    table = read_table(file, ["row", "source"], filters=[("row", ">=", first), ("row", "<", last)])
    row_X, source_X = (table[name].to_numpy().astype(np.int64) for name in ("row", "source"))
    order_X = source_X.argsort(kind="stable")
    return row_X[order_X], source_X[order_X]
