"""A model and what trains it: TorchRec's pipeline, the optimizers and their schedule."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from skipwise.common.distributed import device, rank
from skipwise.datapipes.batch import SessionBatch
from skipwise.models.task import StepLosses
from skipwise.training.checkpoint.checkpoint_index import CheckpointIndex
from skipwise.training.checkpoint.checkpoints import load_tensors
from skipwise.training.checkpoint.state import Tensors, training_tensors
from skipwise.training.checkpoint.warm_start import start_from_run
from skipwise.training.config import RunConfig
from skipwise.training.optimizer import count_table_steps, make_optimizer, make_schedule
from skipwise.training.run.directory import RunDirectory
from skipwise.training.weight_average import WeightAverage


class Trainer:
    """Trains a sharded model by one batch at a time, while the next batches are copied and their ids exchanged."""

    def __init__(self, config: RunConfig, model: DistributedModelParallel, total_steps: int):
        """`total_steps`: at which the schedule ends."""
        self._config, self.model, self._total_steps = config, model, total_steps
        self.optimizer = make_optimizer(model, config.optimizer)
        self._average = WeightAverage(model, config.optimizer.average) if config.optimizer.average else None
        self._looked_up = False
        self.set_step(0)
        self._pipeline = TrainPipelineSparseDist(model, self.optimizer, device())

    def step(self, batches: Iterator[SessionBatch]) -> StepLosses:
        """Trains on the next batch; raises `StopIteration` once none is left."""
        if self._looked_up:
            count_table_steps(self.optimizer, self._steps_before + self._steps)
            self._looked_up = False
        losses: StepLosses = self._pipeline.progress(batches)
        self._schedule.step()
        self._steps += 1
        if self._average is not None:
            self._average.update(self._steps)
        return losses

    def steps(self, batches: Iterator[SessionBatch]) -> Iterator[StepLosses]:
        """Trains on every batch and yields the losses of each."""
        while True:
            try:
                yield self.step(batches)
            except StopIteration:
                return

    def detach(self) -> None:
        """Gives the model its own forward back, for evaluation; the next step attaches the pipeline again."""
        self._pipeline.detach()
        self._looked_up = True

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the weights that are validated: their running mean, if there is one."""
        return nullcontext() if self._average is None else self._average.in_use()

    def tensors(self) -> Tensors:
        """All that a checkpoint holds, live."""
        tensors = training_tensors(self.model, self.optimizer)
        return tensors if self._average is None else self._average.of_checkpoint(tensors)

    def load(self, path: Path, index: CheckpointIndex, steps: int) -> None:
        """Reads a checkpoint that was written after `steps` steps."""
        load_tensors(self.tensors(), path, index)
        self.set_step(steps)

    def start_from(self, run: RunDirectory, num_rows: int = 0) -> None:
        """Takes over the weights and the optimizer state of the run that `run` starts from; `num_rows`: of the table,
        where it has more than the run's tracks."""
        steps_before = start_from_run(training_tensors(self.model, self.optimizer), run, num_rows)
        if self._average is not None:
            self._average.restart()
        self.set_step(0, steps_before)

    def set_step(self, steps: int, steps_before: int = 0) -> None:
        """Sets the schedule to where `steps` steps leave it.

        A fused Adam corrects its moments by their own number of steps: `steps_before` were done before this schedule.
        """
        self._steps, self._steps_before, self._looked_up = steps, steps_before, False
        count_table_steps(self.optimizer, steps + steps_before)
        self._schedule = make_schedule(
            self.optimizer, self._config.optimizer, self._config.table, self._total_steps, steps
        )


def seed_dropout(seed: int, epoch: int, step: int) -> None:
    """Seeds torch by (seed, epoch, step, rank), so that a run that goes on drops what it would have dropped."""
    draw = np.random.SeedSequence([seed, epoch, step, rank()]).generate_state(1)
    torch.manual_seed(int(draw[0]))
