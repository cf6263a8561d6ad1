"""The embeddings of an open export, encoded in memory; decoded to float32 block by block.

Shape legend: R rows, D width, N rows asked for, B rows of a block, W numbers of an encoded row.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from skipwise.retrieval.formats import SCALE_BIAS_BYTES, DType, decode

BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Piece:
    """Consecutive rows, encoded [R, W] as `retrieval.export.row_encoding` writes them."""

    first: int
    encoded: np.ndarray
    dtype: DType = "float32"

    @property
    def dim(self) -> int:
        """D."""
        return int(self.encoded.shape[1]) - SCALE_BIAS_BYTES * (self.dtype == "int8")

    def take(self, rows_N: np.ndarray) -> np.ndarray:
        """float32 [N, D] of rows counted from `first`, in any order."""
        if self.dtype != "float32":
            return decode(self.encoded[rows_N], self.dtype)
        # Several times as fast as NumPy's indexing.
        taken_ND: np.ndarray = self._encoded.index_select(0, torch.from_numpy(rows_N)).numpy()
        return taken_ND

    @cached_property
    def _encoded(self) -> torch.Tensor:
        return _tensor(self.encoded)


class Vectors:
    """A table in pieces."""

    def __init__(self, pieces: list[Piece], name: str = ""):
        """`pieces`: at least one, in row order, without gaps; `name`: one that no table of other content has."""
        self._pieces, self.name = pieces, name
        self.dim = pieces[0].dim
        self._firsts = np.array([piece.first for piece in pieces])

    @property
    def shape(self) -> tuple[int, int]:
        """R, D."""
        return sum(len(piece.encoded) for piece in self._pieces), self.dim

    def narrowed(self, dim: int) -> "Vectors":
        """The first `dim` numbers of each row."""
        return self if dim == self.dim else _Narrowed(self, dim)

    def between(self, first: int, last: int) -> "Vectors":
        """The rows from `first` up to `last`, under their numbers."""
        pieces: list[Piece] = []
        for piece in self._pieces:
            start, end = max(first - piece.first, 0), max(last - piece.first, 0)
            part = piece.encoded[start:end]
            if len(part) or piece is self._pieces[-1] and not pieces:
                pieces.append(Piece(piece.first + start, part, piece.dtype))
        return Vectors(pieces)

    def encoded(self) -> np.ndarray:
        """[R, W] of a table in one piece, not copied."""
        (piece,) = self._pieces
        return piece.encoded

    def take(self, rows_N: np.ndarray) -> np.ndarray:
        """float32 [N, D] of int64 rows in any order."""
        if len(self._pieces) == 1:
            return self._pieces[0].take(rows_N - self._pieces[0].first)
        holders_N = np.searchsorted(self._firsts, rows_N, side="right") - 1
        taken_ND = np.empty((len(rows_N), self.dim), dtype=np.float32)
        for number in np.unique(holders_N):
            chosen_N = holders_N == number
            taken_ND[chosen_N] = self._pieces[number].take(rows_N[chosen_N] - self._pieces[number].first)
        return taken_ND

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, float32 [B, D] of at most `rows`), in row order. Blocks of float32 are views: do not write."""
        for piece in self._pieces:
            for start in range(0, len(piece.encoded), rows):
                block_BD = decode(piece.encoded[start : start + rows], piece.dtype)
                yield piece.first + start, _tensor(block_BD)


class _Narrowed(Vectors):
    def __init__(self, whole: Vectors, dim: int):
        self._whole, self.dim = whole, dim
        self.name = whole.name and f"{whole.name}-{dim}"

    @property
    def shape(self) -> tuple[int, int]:
        return self._whole.shape[0], self.dim

    def take(self, rows_N: np.ndarray) -> np.ndarray:
        return self._whole.take(rows_N)[:, : self.dim]

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, torch.Tensor]]:
        for first, block_BD in self._whole.blocks(rows):
            yield first, block_BD[:, : self.dim].contiguous()


def _tensor(values: np.ndarray) -> torch.Tensor:
    """A view; torch's warning of arrays that are not writable is left out, as nobody writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)
