"""What a model reads of a play beside its track: rows of a second table of the lookup.

Imports NumPy alone. Shape legend: B sessions, S positions of whole sessions, C columns.
"""

from dataclasses import dataclass

import numpy as np

SKIPS = "skips"
"""The column of what happened to the play."""
OUTCOMES = ("kept", "1", "2", "3")
"""Its values: kept, and the skip strengths."""
UNKNOWN = -1
"""In place of a strength: it is not known what happened to the play."""


@dataclass(frozen=True)
class SignalColumn:
    """One column: its values have consecutive rows, after the row of what is not known."""

    name: str
    values: tuple[str, ...]
    first_row: int

    @property
    def num_rows(self) -> int:
        """One a value, and one for any other."""
        return 1 + len(self.values)


@dataclass(frozen=True)
class Signals:
    """The columns that a model reads, in the order of their rows."""

    columns: tuple[SignalColumn, ...] = ()

    @classmethod
    def of(cls, names: tuple[str, ...]) -> "Signals":
        """The columns that a config names."""
        columns: list[SignalColumn] = []
        for name in names:
            first = sum(column.num_rows for column in columns)
            columns.append(SignalColumn(name, OUTCOMES, first))
        return cls(tuple(columns))

    @property
    def num_rows(self) -> int:
        """Rows of the table; 0 without columns."""
        return sum(column.num_rows for column in self.columns)

    def rows(self, strengths_BS: np.ndarray) -> np.ndarray:
        """int64 [B, S, C]: the row of each play in each column; `UNKNOWN` has one of its own."""
        rows_BSC = np.zeros((*strengths_BS.shape, len(self.columns)), dtype=np.int64)
        for place, column in enumerate(self.columns):
            rows_BSC[..., place] = column.first_row + 1 + strengths_BS
        return rows_BSC
