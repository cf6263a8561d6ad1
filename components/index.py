"""Build an export's approximate indexes, measure them on the model's own queries, and keep the fastest.

Example:
  skipwise index --export exports/best --recall 0.95
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class IndexConfig:
    """What to index, and what the index must reach."""

    export: Path
    """Directory that export wrote; the chosen index goes into it, and into its manifest."""
    kinds: tuple[Literal["flat", "ivfpq", "hnsw"], ...] = ("flat", "ivfpq", "hnsw")
    """To choose from: flat is the exact search over the export's own vectors, and needs no file."""
    recall: float = 0.95
    """Share of the ten best tracks by inner product that must be found."""
    k: int = 100
    """Best tracks that are asked for while measuring; the settings tried are those that can find as many."""
    threads: int = 0
    """To build and measure with; 0 leaves the libraries' choice. One thread makes the same index every time."""
    overwrite: bool = False
    """Replace an index that the export has."""

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("--kinds needs at least one of flat, ivfpq, hnsw")
        if not 0 < self.recall <= 1:
            raise ValueError(f"--recall {self.recall} must lie above 0, and at most at 1")
        if not 10 <= self.k <= 10_000:
            raise ValueError(f"--k {self.k} must lie in 10..10000")
        if not 0 <= self.threads <= 1024:
            raise ValueError(f"--threads {self.threads} must lie in 0..1024")


def index(config: IndexConfig) -> None:
    """Prints what was measured; an export whose index could not be made stays as it was."""
    from skipwise.retrieval.search.choose import make_index

    make_index(config)
