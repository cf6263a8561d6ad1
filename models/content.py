"""A track's row as a sum: its own row, and what is known of the track.

Everything that reads rows of tracks reads these sums: positions, targets, negatives, the full ranking and the export.
A track that training never plays has a row of its own that stays zero: it lives on its features (cf. Volkovs et al.,
"DropoutNet", NeurIPS 2017, for dropping ids in training).
Shape legend: U bags, F numbers of a track, C columns of values, X width of a row, R rows of this rank.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from skipwise.datapipes.batch import FEATURE, value_feature
from skipwise.models.config import row_block

BLOCK = 1 << 14
"""Rows of a rank that are looked up at a time."""


class ContentRows(nn.Module):
    """Sums up the rows of a lookup; it holds the projection of numbers."""

    def __init__(self, num_numbers: int, num_columns: int, row_dim: int):
        super().__init__()
        self._num_columns = num_columns
        self.projection = nn.Linear(num_numbers, row_dim, bias=False) if num_numbers else None

    def reset_parameters(self, bound: float, generator: torch.Generator) -> None:
        """Weights with which numbers of variance one give rows of the deviation `bound`."""
        if self.projection is not None:
            deviation = bound / math.sqrt(self.projection.in_features)
            nn.init.normal_(self.projection.weight, std=deviation, generator=generator)

    def forward(self, found: KeyedTensor, numbers_UF: Tensor, shares_UC: Tensor, own_U: Tensor) -> Tensor:
        """[U, X]: the own row where `own_U` is 1, the mean row of the values of each column, and the projection.

        The sum of an empty bag stays zero.
        """
        rows_UX = found[FEATURE] * own_U[:, None]
        for column in range(self._num_columns):
            rows_UX = rows_UX + found[value_feature(column)] * shares_UC[:, column, None]
        return rows_UX if self.projection is None else rows_UX + self.projection(numbers_UF)


def block_rows(num_rows: int, rank: int, world_size: int) -> tuple[int, int, list[np.ndarray]]:
    """The first and the last row (exclusive) of a rank's block, and its rows in as many pieces as any rank has."""
    first, last = row_block(num_rows, rank, world_size)
    pieces = math.ceil(math.ceil(num_rows / world_size) / BLOCK)
    edges = np.minimum(first + BLOCK * np.arange(pieces + 1), last)
    return first, last, [np.arange(low, high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
