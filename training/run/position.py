"""Where a run stands: all that it needs to go on beside its tensors, and the name of a checkpoint taken there."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from skipwise.datapipes.manifest_fields import whole
from skipwise.training.checkpoint.checkpoint_index import Index, StorageError

PHASES = ("train", "refit")


@dataclass(frozen=True)
class Position:
    """How far a run has come: its data cursor, its best epoch and its clock."""

    phase: Literal["train", "refit"] = "train"
    epoch: int = 1
    """The epoch under way."""
    step: int = 0
    """Its steps that are done; all of them, and it waits for its validation."""
    best: float = -1.0
    """Best validation HR@10 so far."""
    best_epoch: int = 0
    best_checkpoint: str = ""
    """The checkpoint at that epoch's end."""
    steps: int = 0
    """Steps trained, over all epochs and phases."""
    seconds: float = 0.0
    """Time those steps took."""
    results: dict[str, Any] = field(default_factory=dict)
    """Metrics measured before the phase began."""

    @classmethod
    def of(cls, index: Index, file: Path) -> "Position":
        """A checkpoint's; raises `StorageError` for what is none."""
        values = index.get("position")
        if isinstance(values, dict) and values.keys() == {field.name for field in fields(cls)}:
            counts = [values[name] for name in ("epoch", "step", "best_epoch", "steps")]
            real = [values[name] for name in ("best", "seconds")]
            if (
                values["phase"] in PHASES
                and all(map(whole, counts))
                and all(isinstance(number, int | float) and math.isfinite(number) for number in real)
                and isinstance(values["best_checkpoint"], str)
                and isinstance(values["results"], dict)
            ):
                return cls(**values)
        raise StorageError(f"{file} describes a position that no run has")

    @property
    def name(self) -> str:
        """The name of its checkpoint."""
        return f"{self.phase}-{self.epoch:05}-{self.step:08}"
