"""What a model reads of a play beside its track: rows of a second table of the lookup.

Imports no torch. Shape legend: B sessions, S positions of whole sessions, C columns, K context columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from skipwise.common.errors import UserError

SKIPS = "skips"
"""The column of what happened to the play; any other is a context column of the dataset."""
PAUSE = "pause"
"""The context column that `prepare --pause` writes."""
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
    def of(cls, names: Sequence[str], contexts: Mapping[str, Sequence[str]] = MappingProxyType({})) -> "Signals":
        """The columns that a config names; `contexts`: the values of each context column among them.

        Raises `UserError` for a name that is neither.
        """
        columns: list[SignalColumn] = []
        for name in names:
            if name not in (SKIPS, *contexts):
                raise UserError(f"--data.inputs {name} is a context column, and no dataset has it here: leave it out")
            first = sum(column.num_rows for column in columns)
            columns.append(SignalColumn(name, OUTCOMES if name == SKIPS else tuple(contexts[name]), first))
        return cls(tuple(columns))

    @property
    def num_rows(self) -> int:
        """Rows of the table; 0 without columns."""
        return sum(column.num_rows for column in self.columns)

    def pauses(self, times: bool = True) -> tuple[int, ...]:
        """Of each row, the seconds from the play before to this one where it is a value of `PAUSE`, else -1; none for
        an encoder that reads no `times`.

        Raises `UserError` for a value that `prepare --pause` does not write.
        """
        if not times:
            return ()
        seconds = [-1] * self.num_rows
        for column in self.columns:
            if column.name != PAUSE:
                continue
            for row, value in enumerate(column.values, column.first_row + 1):
                if not (value.isdecimal() and len(value) <= 2):
                    raise UserError(
                        f"--encoder.times reads {PAUSE} as `prepare --pause` writes it, and '{value}' is no "
                        "logarithm of seconds: prepare the log again with --pause"
                    )
                seconds[row] = 2 ** min(int(value), 40) - 1
        return tuple(seconds)

    def rows(self, strengths_BS: np.ndarray, contexts_BSK: np.ndarray | None = None) -> np.ndarray:
        """int64 [B, S, C]: the row of each play in each column; what is not known has one of its own.

        `strengths_BS`: skip strengths or `UNKNOWN`; `contexts_BSK`: codes of the context columns in their order, 0 for
        what is not known; without them nothing of these is.
        """
        rows_BSC = np.zeros((*strengths_BS.shape, len(self.columns)), dtype=np.int64)
        codes = iter(() if contexts_BSK is None else np.moveaxis(contexts_BSK, -1, 0))
        for place, column in enumerate(self.columns):
            code_BS = 1 + strengths_BS if column.name == SKIPS else next(codes, 0)
            rows_BSC[..., place] = np.add(column.first_row, code_BS, dtype=np.int64)
        return rows_BSC

    def common_rows(self, other: "Signals") -> tuple[np.ndarray, np.ndarray]:
        """int64 [X] each, ascending by the second: the rows here of what `other` has as well, and those rows there."""
        rows: list[dict[tuple[str, str | None], int]] = [
            {
                (column.name, value): column.first_row + code
                for column in signals.columns
                for code, value in enumerate((None, *column.values))
            }
            for signals in (self, other)
        ]
        pairs = sorted((there, rows[0][what]) for what, there in rows[1].items() if what in rows[0])
        there_X, here_X = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return here_X, there_X
