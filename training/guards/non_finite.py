"""A loss or gradient that is not finite ends the run, and is traced to its step, rank and sessions."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from skipwise.common.distributed import gather_objects, rank
from skipwise.common.errors import UserError
from skipwise.common.files import write_json
from skipwise.models.task import Learner

FILE = "non-finite.json"
SYNCHRONOUS_DEVICES = ("cpu",)
"""Devices whose numbers can be read without a wait."""
_QUANTITIES = ("the loss", "the gradient of the table's rows", "the gradient of the encoder")
_NAMED = 8
"""Sessions that the sentence names."""


@dataclass(frozen=True)
class Fault:
    """The first step of a rank that was not finite."""

    epoch: int
    step: int
    rank: int
    what: str
    sessions: list[int]
    """Numbers, in file order, of the dataset's sessions in that rank's batch."""


class NonFiniteCheck:
    """Checks every step of one model; on a GPU the numbers are read only by `look` and `check`."""

    def __init__(self, learner: Learner):
        self._learner = learner
        self._parameters = list(learner.parameters())
        self._seen: list[tuple[int, int, Tensor, Tensor]] = []
        self.fault: Fault | None = None

    def record(self, epoch: int, step: int) -> None:
        """Keeps whether the numbers of the step just done are finite."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        loss, rows = self._learner.own_loss, self._learner.own_row_gradient
        finite = torch.stack([loss, rows, norms.sum()]).isfinite()
        self._seen.append((epoch, step, finite, self._learner.own_sessions))
        if finite.device.type in SYNCHRONOUS_DEVICES:
            self.look()

    def look(self) -> None:
        """Reads all steps not read yet."""
        if not self._seen:
            return
        rows = torch.stack([finite for _, _, finite, _ in self._seen]).tolist()  # one wait for the device
        for (epoch, step, _, sessions), finite in zip(self._seen, rows, strict=True):
            if self.fault is None and not all(finite):
                numbers = sorted(number for number in sessions.tolist() if number >= 0)
                self.fault = Fault(epoch, step, rank(), _QUANTITIES[finite.index(False)], numbers)
        self._seen.clear()

    def check(self, run_path: Path) -> None:
        """Every rank raises the same `UserError` where a step of any was not finite; all ranks call it together."""
        self.look()
        faults = [fault for fault in gather_objects(self.fault) if fault]
        if not faults:
            return
        # A NaN in one rank's loss is in every rank's gradient: the row gradient and the loss are a rank's own.
        first = min(faults, key=lambda fault: (fault.epoch, fault.step, fault.what == _QUANTITIES[2], fault.rank))
        if rank() == 0:
            write_json(run_path / FILE, asdict(first))
        named = ", ".join(map(str, first.sessions[:_NAMED]))
        more = f" and {len(first.sessions) - _NAMED} more" if len(first.sessions) > _NAMED else ""
        raise UserError(
            f"{first.what} is not finite at epoch {first.epoch}, step {first.step}, on rank {first.rank}, whose batch "
            f"holds the sessions {named}{more} (all in {run_path / FILE}): checkpoints are from before it; start "
            f"from the best with --init-from {run_path} and a lower --optimizer.learning-rate or --table.learning-rate"
        )
