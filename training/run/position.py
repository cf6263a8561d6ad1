"""How far a run has come: all that it needs to continue besides its tensors, and the name of a checkpoint there."""

from typing import Any, Literal

from skipwise.common.schema import Count, StrictModel


class Position(StrictModel):
    """The data cursor, the best epoch and the training time of a run."""

    phase: Literal["train", "refit"] = "train"
    epoch: Count = 1
    """The epoch under way."""
    step: Count = 0
    """Its steps that are done; when all are, its validation comes next."""
    best: float = -1.0
    """Best validation so far, by the config's `selection`."""
    best_epoch: Count = 0
    best_checkpoint: str = ""
    """The checkpoint at that epoch's end."""
    steps: Count = 0
    """Steps trained, over all epochs and phases."""
    seconds: float = 0.0
    """Time those steps took."""
    results: dict[str, Any] = {}
    """Metrics measured before the phase began."""

    @property
    def name(self) -> str:
        """The name of its checkpoint."""
        return f"{self.phase}-{self.epoch:05}-{self.step:08}"
