"""What a person and a plot see of a run: progress bar, `metrics.jsonl`, TensorBoard. Rank 0 only."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from datapipes.errors import UserError
from models.task import StepLosses
from training.distributed import logger, rank
from training.run import RunDirectory


class Progress:
    """Counts sessions and time in training steps, and reports."""

    def __init__(self, run: RunDirectory, steps_per_epoch: int, sessions_per_epoch: int):
        self._run, self._steps, self._sessions = run, steps_per_epoch, sessions_per_epoch
        self._loud = rank() == 0
        self._file = open(run.path / "metrics.jsonl", "a", encoding="utf-8") if self._loud else None
        self._board = SummaryWriter(str(run.path / "tensorboard")) if self._loud else None
        self.seconds = 0.0
        self.epochs = 0
        self._best_text = ""

    def steps(self, epoch: int, losses: Iterator[StepLosses], kind: str = "train") -> None:
        """Runs through an epoch's steps; stops the run with a sentence when a logged loss is not finite."""
        began = time.perf_counter()
        log_every = self._run.config.train.log_every
        name = f"epoch {epoch}" if kind == "train" else f"{kind} epoch {epoch}"
        bar = tqdm(losses, total=self._steps, desc=name, disable=not self._loud, mininterval=1, leave=False)
        for step, loss in enumerate(bar, start=1):
            if step % log_every and step != self._steps:
                continue
            values = {"loss": float(loss.total), "nll": float(loss.nll), "nce": float(loss.nce)}
            if not math.isfinite(values["loss"]):
                raise UserError(
                    f"the loss is {values['loss']} at epoch {epoch}, step {step}: "
                    "lower --optimizer.learning-rate or --table.learning-rate"
                )
            rate = step / self._steps * self._sessions / (time.perf_counter() - began)
            bar.set_postfix_str(
                f"loss {values['loss']:.3f} (nll {values['nll']:.3f}, nce {values['nce']:.3f}) "
                f"{rate:.0f} sessions/s{self._best_text}"
            )
            self._write(kind, (epoch - 1) * self._steps + step, values | {"epoch": epoch, "sessions_per_s": rate})
        self.seconds += time.perf_counter() - began
        self.epochs += 1

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
        return self.epochs * self._sessions / max(self.seconds, 1e-9)

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
