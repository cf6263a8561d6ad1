"""A rank's rows of the model's table, with their numbers and track ids, block by block.

Shape legend: R rows of this rank, B rows of a block, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from skipwise.datapipes.vocabulary import Vocabulary


class Block(NamedTuple):
    """At most 65,536 rows."""

    ids_B: pa.Array
    numbers_B: np.ndarray
    """int32; the rows' numbers in the table."""
    rows_BD: Tensor
    """float32, on the CPU, contiguous."""


@dataclass(frozen=True)
class LiveRows:
    """What this rank exports."""

    vocabulary: Vocabulary
    first: int
    """The table's row that `rows_RD` begins with."""
    rows_RD: Tensor
    chosen_R: Tensor | None = None
    """bool, on the CPU: only these rows are exported; None for all."""

    @property
    def dim(self) -> int:
        return self.rows_RD.shape[1]

    def __len__(self) -> int:
        return len(self.rows_RD) if self.chosen_R is None else int(self.chosen_R.sum())

    def blocks(self) -> Iterator[Block]:
        """In row order; none of them is empty."""
        for row, ids in self.vocabulary.ids(self.first, self.first + len(self.rows_RD)):
            place = slice(row - self.first, row - self.first + len(ids))
            numbers_B = np.arange(row, row + len(ids), dtype=np.int32)
            rows_BD = self.rows_RD[place]
            if self.chosen_R is not None:
                chosen_B = self.chosen_R[place]
                ids, numbers_B = ids.filter(pa.array(chosen_B.numpy())), numbers_B[chosen_B.numpy()]
                rows_BD = rows_BD[chosen_B.to(rows_BD.device)]
            if len(ids):
                yield Block(ids, numbers_B, rows_BD.to("cpu", torch.float32).contiguous())
