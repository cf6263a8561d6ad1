"""What a run that follows gives to whoever publishes its changes, and where in their sequence it stands."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.common.schema import Count, StrictModel
from skipwise.training.run.directory import RunDirectory


class DeltaPoint(StrictModel):
    """A delta in the sequence of a run's deltas."""

    number: Count = 0
    """From 1; 0 before the first."""
    hash: str = ""
    """Of its manifest, which names the hash of the one before; empty before the first."""
    base: str = ""
    """Identifies the run that the sequence began with; empty before the first."""


@dataclass(frozen=True)
class NewName:
    """A track that a row has been given to."""

    track: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class TableChange:
    """What has changed since the last delta; the encoder is whole."""

    run: RunDirectory
    model: DistributedModelParallel
    num_rows: int
    """Rows of the table that belong to tracks."""
    rows_X: Tensor
    """int64: this rank's changed rows, ascending."""
    rows_XD: Tensor
    """float32."""
    tracks: Mapping[int, NewName]
    """The tracks that have got a row, by it."""
    part: str
    """The part that was trained on."""
    heard_until: float
    """When the newest of the data landed, in seconds since 1970."""


class Publisher(Protocol):
    """Writes deltas. All ranks call it together."""

    def held(self, init_from: str) -> AbstractContextManager[None]:
        """No other job publishes there for the time of the block.

        Raises the same `UserError` on every rank where one does, or where there are deltas that begin with another run
        than `init_from`.
        """
        ...

    def __call__(self, change: TableChange, last: DeltaPoint) -> DeltaPoint:
        """Publishes the delta behind `last` and returns its point."""
        ...
