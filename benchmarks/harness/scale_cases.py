"""The options of `scale`: which tables, batches and datasets it measures."""

from dataclasses import dataclass
from typing import Literal

from skipwise.benchmarks.harness.config import BenchmarkConfig, StepConfig


@dataclass(frozen=True, kw_only=True)
class ScaleConfig(BenchmarkConfig):
    """Time the training step for every pair of a table size and a batch size, and datasets of so many sessions.

    Example: python -m skipwise.benchmarks scale --tracks 100000 1000000 --batches 64 256 --sessions 10000 100000
    """

    tracks: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    """Rows of the tables, which are in memory together."""
    batches: tuple[int, ...] = (64, 256, 1024, 4096)
    """Sessions of the global batch, over all ranks."""
    dim: int = 128
    """Width of a row."""
    table_precision: Literal["fp32", "fp16"] = "fp32"
    """As --table.precision of `train`: fp16 keeps the rows in half the memory."""
    sessions: tuple[int, ...] = ()
    """Sizes of datasets that are written to a temporary folder, read for one epoch and trained on for some steps, with
    as many tracks as the smallest table; none by default."""
    readings: int = 3
    """Processes that read each dataset, one after the other; the sizes in turn."""
    rounds: int = 10
    """Steps that are timed, of each case; tables of all sizes in turn."""
    warmup: int = 3
    """Steps of each case before them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tracks", "batches", "sessions"):
            values = getattr(self, name)
            if (not values and name != "sessions") or min(values, default=1) < 1 or len(set(values)) < len(values):
                raise ValueError(f"--{name} must be distinct numbers of at least 1")
        for batch in self.batches:
            self.step(self.tracks[0], batch)  # refuses a batch that no step can have

    def step(self, tracks: int, batch: int) -> StepConfig:
        """The options of `step` for one case."""
        return StepConfig(tracks=tracks, dim=self.dim, batch=batch, baseline="none")
