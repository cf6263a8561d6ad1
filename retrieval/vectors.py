"""The embeddings of an open export, as they lie in memory or on the disk: float32 where they are used, block by block.

Shape legend: R rows, D width, N rows asked for, B rows of a block.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from skipwise.retrieval.encodings import SCALE_BIAS_BYTES, scale_bias

BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Piece:
    """Rows from `first` on: float32 or float16 [R, D]; for int8, `fused` is uint8 [R, D + 8], FBGEMM's rows."""

    first: int
    values: np.ndarray
    fused: bool = False

    @property
    def dim(self) -> int:
        """D."""
        return self.values.shape[1] - SCALE_BIAS_BYTES * self.fused

    def decoded(self, chosen: np.ndarray | slice) -> np.ndarray:
        """float32 [N, D]: of a fused row, code * scale + bias, both float32 behind the codes."""
        values = self.values[chosen]
        if self.fused:
            scale_bias_N2 = scale_bias(values)
            codes_ND = values[:, :-SCALE_BIAS_BYTES].astype(np.float32)
            return codes_ND * scale_bias_N2[:, :1] + scale_bias_N2[:, 1:]
        return values.astype(np.float32, copy=False)

    def taken(self, rows_N: np.ndarray) -> np.ndarray:
        """`decoded` for rows in any order, several times as fast where nothing has to be decoded."""
        if self.fused or self.values.dtype != np.float32:
            return self.decoded(rows_N)
        return _viewed(self.values).index_select(0, torch.from_numpy(rows_N)).numpy()


class Vectors:
    """A table in pieces, which need not be in memory."""

    def __init__(self, pieces: list[Piece]):
        """`pieces`: at least one, in row order, without gaps."""
        self._pieces = pieces
        self.dim = pieces[0].dim
        self._firsts = np.array([piece.first for piece in pieces])

    def take(self, rows_N: np.ndarray) -> np.ndarray:
        """float32 [N, D] of int64 rows in any order."""
        if len(self._pieces) == 1:
            return self._pieces[0].taken(rows_N - self._pieces[0].first)
        holders_N = np.searchsorted(self._firsts, rows_N, side="right") - 1
        taken_ND = np.empty((len(rows_N), self.dim), dtype=np.float32)
        for number in np.unique(holders_N):
            chosen_N = holders_N == number
            taken_ND[chosen_N] = self._pieces[number].taken(rows_N[chosen_N] - self._pieces[number].first)
        return taken_ND

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, float32 [B, D] of at most `rows`), in row order. Blocks of float32 are views: do not write."""
        for piece in self._pieces:
            for start in range(0, len(piece.values), rows):
                yield piece.first + start, _viewed(piece.decoded(slice(start, start + rows)))


def _viewed(values: np.ndarray) -> torch.Tensor:
    """Without a copy, and without torch's warning of a map that nobody may write to: nobody does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)
