"""The training loop, top to bottom."""

import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from skipwise.common.distributed import device, logger, rank
from skipwise.datapipes.batch import EvaluationBatch, SessionBatch
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.task import StepLosses
from skipwise.training.build import build_model, check, train_loader
from skipwise.training.checkpoint.checkpoint_index import CheckpointIndex
from skipwise.training.checkpoint.checkpoints import Checkpoints, find_newest, load_best, load_tensors
from skipwise.training.checkpoint.state import Tensors, set_steps, training_tensors
from skipwise.training.checkpoint.warm_start import start_from_run
from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.evaluation.hit_rate_table import hit_rate_table
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.memory_check import check_machines
from skipwise.training.guards.non_finite import Health
from skipwise.training.guards.stop_signal import Action, Control, Stopped
from skipwise.training.optimizer import make_optimizer
from skipwise.training.run.directory import CHECKPOINTS, RunDirectory
from skipwise.training.run.position import Position
from skipwise.training.run.progress import Progress
from skipwise.training.run.start import begin_run

Watch = Callable[[int, dict[str, float | int]], bool]
"""Told the epoch and its validation metrics on every rank; where all return True, training ends."""
At = Callable[..., None]
"""`skipwise.training.guards.hang_watch.HangWatch.at`."""
Batch = TypeVar("Batch")


def train(config: RunConfig, recipe: str, watch: Watch | None = None, test: bool = True) -> RunDirectory:
    """Trains, keeps the weights with the best validation HR@10, and tests those once at the end.

    Needs a process group (`common.distributed.process_group`). Writes the run directory and returns it; goes on
    where an unfinished run of this config stands there. Without `test`, no test target is looked at, and the metrics
    end with the best weights' validation. SIGTERM ends it with `Stopped`, the state saved.
    """
    store = SessionStore(config.data.path)
    check(config, store)
    longest = store.manifest.session_lengths["max"]
    if longest > config.encoder.max_length:
        logger.info(f"sessions have up to {longest} tracks: the last {config.encoder.max_length} are read")
    check_machines(config, store.num_tracks, longest, Path(config.run_dir or "runs"))
    run = begin_run(config, recipe, store)
    if run.finished:
        logger.info(f"{run.path} is finished already; choose another --run-dir to train again")
        logger.info(hit_rate_table(run.metrics(), run.config))
        return run
    torch.set_float32_matmul_precision(config.train.matmul)
    with Control(config.checkpoint.minutes) as control, HangWatch(config.train.hang_s) as hang_watch:
        return Job(run, store, control, hang_watch).run(watch, test)


class Job:
    """One run under way: where it stands, and what it is trained, saved and reported by."""

    def __init__(self, run: RunDirectory, store: SessionStore, control: Control, hang_watch: HangWatch):
        self._run, self._config, self._store = run, run.config, store
        self._control, self._hang_watch = control, hang_watch
        newest = find_newest(run.path)
        self._position = newest[1].position if newest else Position()
        facts = {"vocabulary_hash": run.record.vocabulary_hash, "config": asdict(run.config)}
        self._checkpoints = Checkpoints(run.path, run.config.checkpoint.keep, facts)
        self._training = self._new_training(fresh=newest is None)
        if newest:
            name, index = newest
            self._training.load(run.path / CHECKPOINTS / name, index, index.position)
            self._checkpoints.resume(index.position)
            logger.info(f"goes on from checkpoint {name} of {run.path}")
        self._checkpoints.prepare(self._training.tensors())
        self._progress = Progress(run, self._training.steps, len(store), self._position)

    @property
    def _held_out(self) -> int:
        return HELD_OUT["validation" if self._position.phase == "train" else "test"]

    def run(self, watch: Watch | None, test: bool) -> RunDirectory:
        """Trains what is left, and tests."""
        config, run = self._config, self._run
        results = self._position.results
        if self._position.phase == "train":
            self._train(watch)
            results = self._best_validation(test)
            if test and config.train.refit:
                self._begin_refit(results)
        if self._position.phase == "refit":
            while self._position.epoch <= self._position.best_epoch:
                self._epoch()
                self._next_epoch()
            self._save(best=True)
        self._checkpoints.close()
        load_best(self._training.model, run.path)
        if test:
            evaluator = self._evaluator()
            for protocol in PROTOCOLS:
                values = evaluator.measure(protocol, "test", config.evaluate.sessions, run.path)
                results[protocol] = results.get(protocol, {}) | {"test": values}
        self._progress.close()
        results["train"] = {
            "sessions_per_s": self._progress.sessions_per_s,
            "epochs": self._progress.epochs,
            "best_epoch": self._position.best_epoch,
            "seconds": self._progress.seconds,
        }
        run.update_metrics(results)
        logger.info(hit_rate_table(results, config))
        logger.info(f"run directory: {run.path}")
        return run

    def _train(self, watch: Watch | None) -> None:
        """Until the last epoch, or the last that patience or `watch` allows."""
        config, evaluator, stop = self._config.train, self._evaluator(), False
        while not stop and self._position.epoch <= config.epochs and not self._out_of_patience():
            self._epoch()
            epoch = self._position.epoch
            metrics = evaluator.measure("uniform", "validation", config.validation_sessions)
            better = metrics["hr@10"] > self._position.best
            self._progress.validation(epoch, metrics, better)
            if better:
                self._position = self._position.moved(best=metrics["hr@10"], best_epoch=epoch)
            self._next_epoch()
            if better:
                self._save(best=True)
            stop = watch is not None and watch(epoch, metrics)
        self._save()

    def _out_of_patience(self) -> bool:
        waited = self._position.epoch - 1 - self._position.best_epoch
        return 0 < self._config.train.patience <= waited

    def _epoch(self) -> None:
        """The rest of the epoch under way, with the checkpoints that fall due in it."""
        training, every = self._training, self._config.checkpoint.every
        health = Health(training.model.module.learner)
        losses = training.epoch(self._position.epoch, self._position.step, self._hang_watch.at)
        for step in self._progress.steps(self._position, losses):
            self._position = self._position.moved(
                step=step, steps=self._progress.trained, seconds=self._progress.seconds
            )
            health.step(self._position.epoch, step)
            if step % self._config.train.log_every == 0:
                health.look()
            action = self._control.agree(failed=health.fault is not None or self._checkpoints.failed)
            if action == Action.GO_ON and every and step % every == 0 and step < training.steps:
                action = Action.SAVE
            if action != Action.GO_ON or step == training.steps:
                health.check(self._run.path)
            if action == Action.FAIL:
                self._checkpoints.wait()
            elif action == Action.STOP:
                self._stop()
            elif action == Action.SAVE:
                self._save()

    def _next_epoch(self) -> None:
        self._position = self._position.moved(epoch=self._position.epoch + 1, step=0)

    def _best_validation(self, test: bool) -> dict:
        """The best weights' validation metrics, those of every session among them."""
        self._checkpoints.wait()
        load_best(self._training.model, self._run.path)
        evaluator, record_in = self._evaluator(), self._run.path if test else None
        return {
            protocol: {
                "validation": evaluator.measure(protocol, "validation", self._config.evaluate.sessions, record_in)
            }
            for protocol in (PROTOCOLS if test else PROTOCOLS[:1])
        }

    def _begin_refit(self, results: dict) -> None:
        self._position = self._position.moved(phase="refit", epoch=1, step=0, results=results)
        self._checkpoints.close()
        del self._training
        gc.collect()  # its parts hang together in cycles, and their table must make room for the next
        self._training = self._new_training(fresh=True)
        self._checkpoints.prepare(self._training.tensors())

    def _new_training(self, fresh: bool) -> "Training":
        """A training from its first step, which with `fresh` takes over what `init_from` names."""
        self._hang_watch.at("making the model")
        training = Training(self._config, self._store, self._held_out, self._run.record.num_rows)
        if fresh and self._config.init_from:
            training.warm_start(self._run)
        return training

    def _evaluator(self) -> Evaluator:
        return Evaluator(self._config, self._store, self._training.model, self._followed)

    def _followed(self, batches: Iterator[EvaluationBatch], measured: str) -> Iterator[EvaluationBatch]:
        """Batches to measure, with what the ranks agree on before each."""
        for batch in told(batches, self._hang_watch.at, f"{measured}, batch {{}}"):
            action = self._control.agree(failed=self._checkpoints.failed)
            if action == Action.FAIL:
                self._checkpoints.wait()
            elif action == Action.STOP:
                self._stop()
            yield batch

    def _save(self, best: bool = False) -> None:
        if best:
            self._position = self._position.moved(best_checkpoint=self._position.name)
        self._hang_watch.at("writing checkpoint {}", self._position.name)
        self._checkpoints.save(self._training.tensors(), self._position)
        self._control.saved()

    def _stop(self) -> None:
        self._save()
        self._checkpoints.close()
        self._progress.close()
        logger.info(f"stopped by SIGTERM, saved as {self._position.name}: the same command goes on from there")
        raise Stopped(0)


def told(batches: Iterator[Batch], at: At, place: str, before: int = 0) -> Iterator[Batch]:
    """The batches from number `before` + 1 on; `at` hears when each is waited for, and when it has come."""
    for number in itertools.count(before + 1):
        at(f"waiting for data, {place}", number)
        batch = next(batches, None)
        at(place, number)
        if batch is None:
            return
        yield batch


def pipelined(pipeline: TrainPipelineSparseDist, batches: Iterator[SessionBatch]) -> Iterator[StepLosses]:
    """Trains on every batch, the next one's ids already under way, and yields the losses."""
    while True:
        try:
            yield pipeline.progress(batches)
        except StopIteration:
            return


class Training:
    """A fresh model and what trains it, on all but each session's last `held_out` tracks."""

    def __init__(self, config: RunConfig, store: SessionStore, held_out: int, rows: int):
        """`rows` of the table."""
        self._seed = config.train.seed
        self.model = build_model(config, store.num_tracks, rows)
        self.loader = train_loader(config, store, held_out)
        self.steps = self.loader.steps
        """Steps of an epoch."""
        total = self.steps * config.train.epochs
        self._optimizer = make_optimizer(self.model, config.optimizer, config.table, total)
        self._pipeline = TrainPipelineSparseDist(self.model, self._optimizer, device())

    def epoch(self, number: int, first_step: int = 0, at: At | None = None) -> Iterator[StepLosses]:
        """Trains through the steps of one epoch from `first_step` on, yielding each step's losses; tells `at` its way.

        Dropout follows from (seed, epoch, step, rank) as all else does, so a run that goes on draws what it would have.
        """
        self.model.train()
        batches = self.loader.epoch(number, first_step)
        if at:
            batches = told(batches, at, f"training epoch {number}, step {{}}", first_step)
        losses = pipelined(self._pipeline, batches)
        for step in itertools.count(first_step):
            draw = np.random.SeedSequence([self._seed, number, step, rank()]).generate_state(1)
            torch.manual_seed(int(draw[0]))
            loss = next(losses, None)
            if loss is None:
                break
            yield loss
        self._pipeline.detach()

    def tensors(self) -> Tensors:
        """All that a checkpoint holds, live."""
        return training_tensors(self.model, self._optimizer)

    def warm_start(self, run: RunDirectory) -> None:
        """Takes over what the run named by `init_from` learned; the schedule begins anew."""
        set_steps(self._optimizer, 0, start_from_run(self.tensors(), run))

    def load(self, path: Path, index: CheckpointIndex, position: Position) -> None:
        """Takes over the state saved at `position`."""
        load_tensors(self.tensors(), path, index)
        set_steps(self._optimizer, (position.epoch - 1) * self.steps + position.step)
