"""A model and what trains it: TorchRec's pipeline, the optimizers and their schedule."""

from collections.abc import Iterator
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
from skipwise.training.config import RunConfig
from skipwise.training.optimizer import make_optimizer, make_schedule


class Trainer:
    """Trains a sharded model by one batch at a time, while the next batches are copied and their ids exchanged."""

    def __init__(self, config: RunConfig, model: DistributedModelParallel, total_steps: int):
        """`total_steps`: at which the schedule ends."""
        self._config, self.model, self._total_steps = config, model, total_steps
        self.optimizer = make_optimizer(model, config.optimizer)
        self.set_step(0)
        self._pipeline = TrainPipelineSparseDist(model, self.optimizer, device())

    def step(self, batches: Iterator[SessionBatch]) -> StepLosses:
        """Trains on the next batch; raises `StopIteration` once none is left."""
        losses: StepLosses = self._pipeline.progress(batches)
        self._schedule.step()
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

    def tensors(self) -> Tensors:
        """All that a checkpoint holds, live."""
        return training_tensors(self.model, self.optimizer)

    def load(self, path: Path, index: CheckpointIndex, steps: int) -> None:
        """Reads a checkpoint that was written after `steps` steps."""
        load_tensors(self.tensors(), path, index)
        self.set_step(steps)

    def set_step(self, steps: int, steps_before: int = 0) -> None:
        """Sets the schedule to where `steps` steps leave it.

        A fused Adam corrects its moments by their own number of steps: `steps_before` were done before this schedule.
        """
        self.optimizer.set_optimizer_step(steps + steps_before)
        self._schedule = make_schedule(
            self.optimizer, self._config.optimizer, self._config.table, self._total_steps, steps
        )


def seed_dropout(seed: int, epoch: int, step: int) -> None:
    """Seeds torch by (seed, epoch, step, rank), so that a run that goes on drops what it would have dropped."""
    draw = np.random.SeedSequence([seed, epoch, step, rank()]).generate_state(1)
    torch.manual_seed(int(draw[0]))
