"""What a person and a plot see of a run: progress bar, `metrics.jsonl`, TensorBoard. Rank 0 only."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from skipwise.common.distributed import logger, rank
from skipwise.common.files import write_text
from skipwise.models.task import StepLosses
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.position import Position


class Progress:
    """Counts steps and the time they took, and reports."""

    def __init__(self, run: RunDirectory, steps_per_epoch: int, sessions_per_epoch: int, begun: Position):
        """`begun`: where the run stands; what was reported of later steps, by ranks that were stopped, is dropped."""
        self._run, self._steps, self._sessions = run, steps_per_epoch, sessions_per_epoch
        self._loud = rank() == 0
        self._file, self._board = None, None
        if self._loud:
            file = run.path / "metrics.jsonl"
            trained = (begun.epoch - 1) * steps_per_epoch + begun.step
            _cut(file, begun, trained)
            self._file = open(file, "a", encoding="utf-8")
            self._board = SummaryWriter(str(run.path / "tensorboard"), purge_step=trained + 1 if trained else None)
        self.seconds = begun.seconds
        self.trained = begun.steps
        self._best_text = ""

    def steps(self, position: Position) -> Iterator[int]:
        """The numbers, from 1, of the steps left of an epoch, under a progress bar; starts the clock of each."""
        self._position, self._epoch_began = position, time.perf_counter()
        self._bar = tqdm(
            range(position.step + 1, self._steps + 1),
            total=self._steps,
            initial=position.step,
            desc=f"epoch {position.epoch}" if position.phase == "train" else f"{position.phase} epoch {position.epoch}",
            disable=not self._loud,
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
        rate = (step - self._position.step) / self._steps * self._sessions / (now - self._epoch_began)
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f} (nll {values['nll']:.3f}, nce {values['nce']:.3f}) "
            f"{rate:.0f} sessions/s{self._best_text}"
        )
        self._write(kind, (epoch - 1) * self._steps + step, values | {"epoch": epoch, "sessions_per_s": rate})

    def validation(self, epoch: int, metrics: dict[str, float | int], better: bool) -> None:
        """One line an epoch, on screen and on file."""
        self._best_text = f", validation HR@10 {metrics['hr@10']:.4f}"
        logger.info(
            f"epoch {epoch}: validation (uniform) HR@10 {metrics['hr@10']:.4f}, HR@1 {metrics['hr@1']:.4f}, "
            f"{self.sessions_per_s:.0f} sessions/s{', best so far' if better else ''}"
        )
        self._write("validation", epoch * self._steps, metrics | {"epoch": epoch})

    @property
    def sessions_per_s(self) -> float:
        """Sessions trained on per second of training steps, over all ranks; validation is not counted."""
        return self.trained / self._steps * self._sessions / max(self.seconds, 1e-9)

    @property
    def epochs(self) -> int:
        """Epochs trained, those of a refit among them."""
        return self.trained // self._steps

    def close(self) -> None:
        """Flushes both files."""
        if self._loud:
            self._file.close()
            self._board.close()

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if self._loud:
            self._file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


def _cut(file: Path, position: Position, trained: int) -> None:
    """Keeps the lines of what `position` has behind it."""
    if not file.exists():
        return
    here = position.phase == "refit", position.epoch, trained
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
            step = values["step"] if values["kind"] != "validation" else float("inf")
            if (values["kind"] == "refit", values["epoch"], step) <= here:
                kept.append(f"{line}\n")
        except (ValueError, KeyError, TypeError):
            continue  # torn when its writer was killed
    write_text(file, "".join(kept))
