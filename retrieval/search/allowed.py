"""The rows that a search may find, one bit a row, in the order of bits that FAISS reads.

Shape legend: R rows of the table, N rows that are allowed.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Allowed:
    """A set of rows."""

    bits: np.ndarray
    """uint8 [ceil(R / 8)]: row r is bit r % 8 of byte r // 8; the bits beyond R are 0."""
    num_rows: int
    """R."""

    @classmethod
    def of(cls, allowed_R: np.ndarray) -> "Allowed":
        """Of bool [R]."""
        return cls(np.packbits(allowed_R, bitorder="little"), len(allowed_R))

    @cached_property
    def count(self) -> int:
        """N."""
        return int(np.bitwise_count(self.bits).sum())

    def mask(self) -> Tensor:
        """bool [R]."""
        return torch.from_numpy(np.unpackbits(self.bits, count=self.num_rows, bitorder="little").view(bool))

    def rows(self) -> np.ndarray:
        """int64 [N], in ascending order."""
        return np.flatnonzero(self.mask().numpy())
