"""A table in a byte a number, centre + step * code for each column, in one buffer that several processes may map.

Rows may be written anew, and rows may be added as long as there is room. What is kept beside the codes holds for all
rows that ever stood in the table, so it stays true of what stands there now.

Shape legend: R rows of the table, C rows that there is room for, D width, B rows of a block, X rows that are written.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from skipwise.retrieval.shared_rows import shared_bytes

LEVELS = 127
"""Codes of -127 to 127, stored as 1 to 255."""
ZERO = 128
ROOM = 1 << 12
"""Rows that may be read behind the last one."""
_MORE_ROOM = 1 / 8
"""For rows that are added, as a share of those there are; it takes memory when it is written to."""
_MARGIN = 1 / 8
"""Of the range of a column, for rows that are written later."""
_MOST_GROWTH = 4.0
"""Of the largest error of a code, by rows beyond that; with more, the table is to be read again."""

Blocks = Callable[[], Iterator[tuple[int, Tensor]]]
"""(first row, float32 [B, D]), in row order; the same at each call."""


class RowCodes:
    """The codes of a table, and how far they are from it."""

    def __init__(self, blocks: Blocks, num_rows: int, dim: int, name: str = ""):
        """Reads the table twice, unless another process that maps what has this `name` has done so."""
        self._dim, room = dim, num_rows + int(num_rows * _MORE_ROOM) + 2 * ROOM
        head = -(-4 * (3 * dim + 3) // 4096) * 4096
        shape = (head + room * dim, head + num_rows * dim)
        made = shared_bytes(name, *shape, lambda: self._made(blocks, head, *shape))
        self._of(torch.from_numpy(made), head)
        self.num_rows = num_rows

    def _of(self, buffer: Tensor, head: int) -> None:
        numbers = buffer[: 4 * (3 * self._dim + 3)].view(torch.float32)
        self._columns_3D, self._errors_3 = numbers[:-3].view(3, self._dim), numbers[-3:]
        self.codes_CD = buffer[head:].view(-1, self._dim)

    def _made(self, blocks: Blocks, head: int, size: int, used: int) -> np.ndarray:
        made = np.empty(size, dtype=np.uint8)
        made[:head] = 0
        self._of(torch.from_numpy(made), head)
        low_D, high_D = torch.full((self._dim,), float("inf")), torch.full((self._dim,), float("-inf"))
        for _, block_BD in blocks():
            low_D = torch.minimum(low_D, block_BD.amin(dim=0))
            high_D = torch.maximum(high_D, block_BD.amax(dim=0))
        step_D = (high_D / 2 - low_D / 2) * ((1 + _MARGIN) / LEVELS)
        self._columns_3D[0], self._columns_3D[1] = low_D / 2 + high_D / 2, step_D.masked_fill(step_D == 0, 1.0)
        self._columns_3D[2] = torch.maximum(low_D.abs(), high_D.abs())
        for first, block_BD in blocks():
            self.codes_CD[first : first + len(block_BD)] = self._code(block_BD)
        self._errors_3[2] = self._errors_3[0]
        return made

    def _code(self, rows_BD: Tensor) -> Tensor:
        """uint8 [B, D]; `off` and `norm` are those of these rows too from now on."""
        exact_BD = (rows_BD - self.centre_D).div_(self.step_D)
        code_BD = exact_BD.round().clamp_(-LEVELS, LEVELS)
        errors_2 = torch.stack([exact_BD.sub_(code_BD).norm(dim=1).max(), code_BD.norm(dim=1).max()])
        self._errors_3[:2] = torch.maximum(self._errors_3[:2], errors_2)
        return code_BD.add_(ZERO).to(torch.uint8)

    def write(self, row_X: Tensor, values_XD: Tensor, num_rows: int) -> bool:
        """Of rows that the table, of `num_rows` rows, has anew; False where it has to be read again."""
        if num_rows + ROOM > len(self.codes_CD):
            return False
        self.num_rows = num_rows
        if len(row_X):
            torch.maximum(self.largest_D, values_XD.abs().amax(dim=0), out=self.largest_D)
            self.codes_CD[row_X] = self._code(values_XD)
        return self.off <= _MOST_GROWTH * float(self._errors_3[2])

    @property
    def centre_D(self) -> Tensor:
        """The middle of each column."""
        return self._columns_3D[0]

    @property
    def step_D(self) -> Tensor:
        """What one level of a column stands for."""
        return self._columns_3D[1]

    @property
    def largest_D(self) -> Tensor:
        """The largest absolute number of each column."""
        return self._columns_3D[2]

    @property
    def off(self) -> float:
        """The largest norm of what a row is off its codes, in steps."""
        return float(self._errors_3[0])

    @property
    def norm(self) -> float:
        """The largest norm of a row's codes."""
        return float(self._errors_3[1])
