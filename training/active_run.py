"""A run under way: where it stands, and what trains, checks, saves and reports it."""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skipwise.common.distributed import logger
from skipwise.datapipes.batch import EvaluationBatches, SessionBatch
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import HeldOut, build_model, cold_tracks, train_loader, training_data
from skipwise.training.checkpoint.checkpoints import Checkpoints, find_newest, load_best
from skipwise.training.config import Protocol, Split
from skipwise.training.config_fields import as_json
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.evaluation.measure_ranks import Metrics
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.non_finite import NonFiniteCheck
from skipwise.training.guards.stop_signal import Action, Stopped, StopSignal
from skipwise.training.run.directory import CHECKPOINTS, RunDirectory
from skipwise.training.run.position import Position
from skipwise.training.run.progress import Progress
from skipwise.training.trainer import Trainer


class ActiveRun:
    """The state of a run that is being trained. All ranks call its methods together."""

    trainer: Trainer
    non_finite: NonFiniteCheck

    def __init__(self, run: RunDirectory, store: SessionStore, stop_signal: StopSignal, hang_watch: HangWatch):
        """Goes on from the newest whole checkpoint of `run`, or starts it."""
        self.run, self.config, self._store = run, run.config, store
        self.stop_signal, self._hang_watch = stop_signal, hang_watch
        newest = find_newest(run.path)
        self.position = newest[1].position if newest else Position()
        facts = {"vocabulary_hash": run.record.vocabulary_hash, "config": as_json(run.config)}
        self.checkpoints = Checkpoints(run.path, run.config.checkpoint.keep, facts)
        self._make_trainer(fresh=newest is None)
        if newest:
            name, index = newest
            self.trainer.load(run.path / CHECKPOINTS / name, index, self.steps_before + index.position.step)
            self.checkpoints.resume(index.position)
            logger.info(f"goes on from checkpoint {name} of {run.path}")
        self.checkpoints.prepare(self.trainer.tensors())
        self.progress = Progress(run, self.num_steps, self._num_sessions, self.position, self.steps_before)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return self._loader.steps

    @property
    def steps_before(self) -> int:
        """Steps of this phase before the epoch under way."""
        return (self.position.epoch - 1) * self.num_steps

    @property
    def failed(self) -> bool:
        """Whether this rank has met a number that is not finite, or could not write a checkpoint."""
        return self.non_finite.fault is not None or self.checkpoints.failed

    def move(self, **changes: Any) -> None:
        """Changes fields of the position."""
        self.position = self.position.model_copy(update=changes)

    def batches(self) -> Iterator[SessionBatch]:
        """What is left of the epoch's batches."""
        epoch, step = self.position.epoch, self.position.step
        place = f"training epoch {epoch}, step {{}}"
        return self._loader.epoch(epoch, step, lambda batches: self._hang_watch.batches(batches, place, step))

    def validate(self) -> Metrics:
        """The validation that `config.selection` chooses by."""
        protocol = self.config.selection.protocol
        with self.trainer.averaged():
            return self._measure((protocol,), "validation", self.config.selection.sessions, None)[protocol]

    def measure(self, protocols: Sequence[Protocol], split: Split, record: bool) -> dict[Protocol, Metrics]:
        """The metrics of the present weights; `record`: the rank of each target is written."""
        return self._measure(protocols, split, self.config.evaluate.sessions, self.run.path if record else None)

    def _measure(
        self, protocols: Sequence[Protocol], split: Split, sessions: int, record_in: Path | None
    ) -> dict[Protocol, Metrics]:
        """A stop signal or a failed checkpoint ends it at the next batch."""
        evaluator = Evaluator(self.config, self.trainer.model, self._interruptible, self._cold_N)
        held_out = HeldOut.of(self.config.evaluate, self._store, split)
        return evaluator.measure(protocols, split, held_out, sessions, record_in)

    def step_done(self) -> None:
        """Is called after each step that neither saves nor stops."""

    def publish(self) -> None:
        """Is called where a delta is due; there are none of a run that does not follow."""

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint of the position, in the background; `best` marks it as the best so far."""
        if best:
            self.move(best_checkpoint=self.position.name)
        self._hang_watch.heartbeat("writing checkpoint {}", self.position.name)
        self.checkpoints.save(self.trainer.tensors(), self.position)
        self.stop_signal.restart_clock(Action.SAVE)

    def stop(self) -> None:
        """Saves and raises `Stopped`."""
        self.save()
        self.checkpoints.close()
        self.progress.close()
        self.progress.tracking.end()
        logger.info(f"stopped by SIGTERM, saved as {self.position.name}: the same command goes on from there")
        raise Stopped(0)

    def load_best(self) -> None:
        """Reads the best weights, once they are written."""
        self.checkpoints.wait()
        load_best(self.trainer.model, self.run.path)

    def start_refit(self, results: dict[str, Any]) -> None:
        """A fresh model in place of the trained one, whose `results` are kept; it reads validation targets too."""
        epochs = self.position.best_epoch
        seconds = epochs * self.num_steps * self.position.seconds / self.position.steps
        logger.info(
            f"refit: trains a new model for the {epochs} epochs after which validation was best, with the validation "
            f"targets among its data: {epochs * self.num_steps:,} steps, about {_duration(seconds)}"
        )
        self.move(phase="refit", epoch=1, step=0, results=results)
        self.checkpoints.close()
        del self.trainer, self.non_finite
        gc.collect()  # the model is part of reference cycles, and its table must make room for the next
        self._make_trainer(fresh=True)
        self.progress.start_phase(self.num_steps, self._num_sessions)
        self.checkpoints.prepare(self.trainer.tensors())

    def _make_trainer(self, fresh: bool) -> None:
        """A model at its first step, which with `fresh` takes over what `init_from` names, and its loader."""
        self._hang_watch.heartbeat("making the model")
        record, store, refit = self.run.record, self._store, self.position.phase == "refit"
        model = build_model(self.config, store.num_tracks, record.num_rows, record.contexts, store.features)
        sessions, held_out = training_data(store, refit, self.config.data.hold_out_tracks)
        self._cold_N = cold_tracks(self.config, store, refit)
        self._loader, self._num_sessions = train_loader(self.config, sessions, held_out), len(sessions)
        self.trainer = Trainer(self.config, model, self.num_steps * self.config.train.epochs)
        self.non_finite = NonFiniteCheck(model.module.learner)
        if fresh and self.config.init_from:
            self.trainer.start_from(self.run)

    def _interruptible(self, batches: Iterator[EvaluationBatches], measured: str) -> Iterator[EvaluationBatches]:
        """Passes on `batches`; before each the ranks agree whether to go on."""
        for batch in self._hang_watch.batches(batches, f"{measured}, batch {{}}"):
            action = self.stop_signal.sync_action(failed=self.checkpoints.failed)
            if action == Action.FAIL:
                self.checkpoints.wait()
            elif action == Action.STOP:
                self.stop()
            yield batch


def _duration(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"
