"""The progress of a run, reported by rank 0: a bar on screen, `metrics.jsonl` and TensorBoard."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from skipwise.common.distributed import logger, rank
from skipwise.common.files import read_text, write_text
from skipwise.models.task import StepLosses
from skipwise.training.run.directory import LARGEST_METRICS, METRICS_LINES, RunDirectory
from skipwise.training.run.position import Position
from skipwise.training.run.tracking import Tracking

PART = "part"
"""The kind of the lines of `Progress.part`."""


class Progress:
    """Counts steps and their time, and reports both with the losses."""

    def __init__(
        self, run: RunDirectory, steps_per_epoch: int, sessions_per_epoch: int, start: Position, steps_before: int
    ):
        """`start`: where the run starts or continues; reports of later steps, by a stopped run, are dropped.

        `steps_before`: steps before its epoch.
        """
        self._run, self._steps, self._sessions = run, steps_per_epoch, sessions_per_epoch
        self.tracking = Tracking(run)
        self._outputs: tuple[TextIO, SummaryWriter] | None = None
        if rank() == 0:
            file = run.path / "metrics.jsonl"
            step = steps_before + start.step
            _drop_later_lines(file, start, step)
            board = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1 if step else None)
            self._outputs = open(file, "a", encoding="utf-8"), board
        self.seconds = start.seconds
        self.trained = start.steps
        self._best_text = ""
        self._before: int | None = None

    def start_phase(self, steps_per_epoch: int, sessions_per_epoch: int, steps_before: int | None = None) -> None:
        """Counts from here on in epochs of this size: a refit reads more.

        `steps_before`: steps before the next epoch, where those before were of other sizes.
        """
        self._steps, self._sessions, self._before = steps_per_epoch, sessions_per_epoch, steps_before

    def steps(self, position: Position) -> Iterator[int]:
        """The numbers, from 1, of the steps left of an epoch, under a progress bar; starts the clock of each."""
        self._position, self._epoch_began = position, time.perf_counter()
        self._bar = tqdm(
            range(position.step + 1, self._steps + 1),
            total=self._steps,
            initial=position.step,
            desc=f"epoch {position.epoch}" if position.phase == "train" else f"{position.phase} epoch {position.epoch}",
            disable=rank() != 0,
            mininterval=1,
            leave=False,
        )
        for step in self._bar:
            self._step_began = time.perf_counter()
            yield step

    def step_done(self, step: int, losses: StepLosses) -> None:
        """Stops the step's clock, and reports its losses where a report is due."""
        now = time.perf_counter()
        self.trained += 1
        self.seconds += now - self._step_began
        if step % self._run.config.train.log_every and step != self._steps:
            return
        epoch, kind = self._position.epoch, self._position.phase
        values = {"loss": float(losses.total), "nll": float(losses.nll), "nce": float(losses.nce)}
        loss = self._run.config.loss
        if loss.keep:
            values["keep"] = float(losses.keep)
        parts = ", ".join(f"{name} {values[name]:.3f}" for name in loss.parts)
        rate = (step - self._position.step) / self._steps * self._sessions / (now - self._epoch_began)
        self._bar.set_postfix_str(f"loss {values['loss']:.3f} ({parts}) {rate:.0f} sessions/s{self._best_text}")
        before = (epoch - 1) * self._steps if self._before is None else self._before
        self._write(kind, before + step, values | {"epoch": epoch, "sessions_per_s": rate})

    def validation(self, epoch: int, metrics: dict[str, Any], better: bool) -> None:
        """Reports an epoch's validation, in one line on screen and in the files."""
        selection = self._run.config.selection
        chosen_by = f"validation {selection.name} {selection.value(metrics):.4f}"
        self._best_text = f", {chosen_by}"
        logger.info(
            f"epoch {epoch}: {chosen_by}; HR@10 {metrics['hr@10']:.4f}, HR@1 {metrics['hr@1']:.4f} (all targets); "
            f"{self.sessions_per_s:.0f} sessions/s{', best so far' if better else ''}"
        )
        figures = {name: value for name, value in metrics.items() if value is not None}
        self._write("validation", epoch * self._steps, figures | {"epoch": epoch})

    def part(self, number: int, values: dict[str, Any]) -> None:
        """Reports the validation on a part of this number before it is trained on, in the files."""
        self._write(PART, self._before or 0, values | {"epoch": number})

    @property
    def sessions_per_s(self) -> float:
        """Sessions trained on per second of training steps, over all ranks; validation is not counted."""
        return self.trained / self._steps * self._sessions / max(self.seconds, 1e-9)

    def close(self) -> None:
        """Closes `metrics.jsonl` and TensorBoard's file."""
        for output in self._outputs or ():
            output.close()

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if not self._outputs:
            return
        file, board = self._outputs
        file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")
        file.flush()
        for name, value in values.items():
            board.add_scalar(f"{kind}/{name}", value, step)
        self.tracking.scalars(kind, step, values)


def _drop_later_lines(file: Path, position: Position, step: int) -> None:
    """Keeps the lines of steps and validations up to `position`, which is at this step over all epochs."""
    if not file.exists():
        return
    here = position.phase == "refit", position.epoch, step
    kept = []
    for line in read_text(file, METRICS_LINES, LARGEST_METRICS).splitlines():
        try:
            values = json.loads(line)
            line_step = values["step"] if values["kind"] != "validation" else float("inf")
            line_step += values["kind"] == PART  # comes before the part's first step
            if (values["kind"] == "refit", values["epoch"], line_step) <= here:
                kept.append(f"{line}\n")
        except (ValueError, KeyError, TypeError):
            continue  # cut off when its writer was killed
    write_text(file, "".join(kept))
