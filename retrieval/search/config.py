"""The settings of `index`, and how an export may be searched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

IndexKind = Literal["flat", "fastscan", "ivfpq", "hnsw"]
"""Exact over the export's own vectors; all rows by codes of four bits for two numbers; inverted lists of
product-quantized rows; a graph of neighbours."""
FEW_ROWS = 100_000
"""Below so many the exact search takes less than some milliseconds, and an index would only miss tracks."""
SearchChoice = Literal["auto", "exact", "index"]
"""`index`: the index in the export; `auto`: that one where there is one, else the exact search."""


@dataclass(frozen=True)
class IndexConfig:
    """What to index, and what the index must reach."""

    export: Path
    """Directory that export wrote; the chosen index is written into it and recorded in its manifest."""
    kinds: tuple[IndexKind, ...] = ()
    """To measure and choose from; flat is the exact search over the export's own vectors, and needs no file. Where none
    is named: flat alone below 100,000 tracks, else all four."""
    recall: float = 0.95
    """Share of the ten best tracks by inner product that must be found."""
    k: int = 100
    """Best tracks asked for while measuring; only settings that can find as many are tried."""
    threads: int = 0
    """To build and measure with; 0 leaves the libraries' default. One thread makes the same index every time."""
    overwrite: bool = False
    """Replace an index that the export has."""

    def kinds_for(self, num_rows: int) -> tuple[IndexKind, ...]:
        """What to measure on a table of so many rows."""
        return self.kinds or (("flat",) if num_rows < FEW_ROWS else get_args(IndexKind))

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise ValueError(f"--recall {self.recall} must lie above 0, and at most at 1")
        if not 10 <= self.k <= 10_000:
            raise ValueError(f"--k {self.k} must lie in 10..10000")
        if not 0 <= self.threads <= 1024:
            raise ValueError(f"--threads {self.threads} must lie in 0..1024")
