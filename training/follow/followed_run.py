"""A run that follows: an active run whose epochs are parts of data, each mapped to the rows of one growing table."""

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from skipwise.common.distributed import logger, on_all_ranks, on_rank_0
from skipwise.common.errors import UserError
from skipwise.common.tables import read_table
from skipwise.datapipes.manifest import MANIFEST
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.datapipes.vocabulary_match import SCRATCH, match
from skipwise.training.active_run import ActiveRun
from skipwise.training.build import HeldOut, build_model, play_counts, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.evaluation.measure_ranks import Metrics
from skipwise.training.follow import play_shares
from skipwise.training.follow.arrivals import Arrivals
from skipwise.training.follow.live_table import ChangedRows, begin_anew
from skipwise.training.follow.publishing import DeltaPoint, NewName, Publisher, TableChange
from skipwise.training.follow.spare_rows import WAITS, SpareRows, record_of_plays, record_of_rows
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.non_finite import NonFiniteCheck
from skipwise.training.guards.stop_signal import Action, StopSignal
from skipwise.training.run.directory import RunDirectory
from skipwise.training.trainer import Trainer

_NO_END = 1 << 40
"""Steps of a schedule that does not end."""


class FollowedRun(ActiveRun):
    """The state of a run that follows. All ranks call its methods together; the position's epoch counts parts."""

    def __init__(
        self,
        run: RunDirectory,
        store: SessionStore,
        stop_signal: StopSignal,
        hang_watch: HangWatch,
        publisher: Publisher | None,
    ):
        """`publisher`: None where no deltas are written."""
        self._publisher, self._new, self._part = publisher, dict[int, NewName](), ""
        self._heard_until = 0.0
        super().__init__(run, store, stop_signal, hang_watch)
        self._published_at = self.position.steps
        self._changed = ChangedRows(self.trainer.model)
        self._spare = SpareRows(run.record.num_rows, run.config.stream)
        self.arrivals = on_rank_0(lambda: Arrivals(run.config.follow, run.path))

    @property
    def num_steps(self) -> int:
        return self._loader.steps if self._part else 0

    @property
    def steps_before(self) -> int:
        return self.position.steps - self.position.step

    @property
    def results(self) -> dict[str, Any]:
        """What the run carries from part to part."""
        return self.position.results

    def open_part(self, path: str) -> None:
        """Reads the part at `path`, gives rows to its new tracks, and makes its batches."""
        number, store = self.position.epoch, on_all_ranks(lambda: SessionStore(path))
        store = store.reading(self.run.record.contexts)
        on_rank_0(lambda: self.arrivals.note(number, path, store.manifest.data_hash))
        row_of, num_rows, given, said = on_rank_0(lambda: self._give_rows(number, store))
        self._mapped = store.mapped(row_of, num_rows)
        self._num_rows, self._part = num_rows, Path(path).name
        self._heard_until = os.stat(store.path / MANIFEST).st_mtime
        if self.position.step == 0:
            self._new = given
            begin_anew(self.trainer.tensors(), [*given], self.config)
            self._changed.mark([*given])
            if said:
                logger.info(f"part {number} ({self._part}): {said}")
        self.trainer.model.module.learner.num_tracks = num_rows
        plays_R = None
        if self.config.loss.in_batch:
            of_part_R = play_counts(self._mapped, 0)
            plays_R = on_rank_0(lambda: self._renewed_plays(number, of_part_R, [*given]))
        self._loader = train_loader(self.config, self._mapped, held_out=0, plays_R=plays_R)
        self._num_sessions = len(store)
        self.progress.start_phase(self.num_steps, self._num_sessions, self.steps_before)

    def _give_rows(self, number: int, store: SessionStore) -> tuple[np.ndarray, int, dict[int, NewName], str]:
        """Of rank 0: the row of each of the part's tracks, the rows in use, who got one now, and what to say of it."""
        record = record_of_rows(self.run.path, number)
        vocabulary = Vocabulary.of(store)
        vocabulary.check()
        row_of = np.full(vocabulary.num_tracks, WAITS, dtype=np.int64)
        with TemporaryDirectory(dir=self.run.path, prefix=SCRATCH) as scratch:
            files = [Path(scratch) / name for name in ("tracks.parquet", "matches.parquet")]
            match(self.run.vocabulary, vocabulary, False, *files)
            known = read_table(files[1], ["row", "source"])
        row_of[known["row"].to_numpy()] = known["source"].to_numpy()
        columns = vocabulary.names()
        table = read_table(vocabulary.file, ["track_id", "count", *columns]).take(np.flatnonzero(row_of == WAITS))
        ids, counts = table["track_id"].to_pylist(), table["count"].to_pylist()
        given, said = dict[int, str](), ""
        if record.exists() and self.position.step:
            self._spare.read(record)
        else:
            if number > 1:
                self._spare.read(record_of_rows(self.run.path, number - 1))
            of_tracks: dict[str, dict[str, str]] = {track: {} for track in ids}
            for column in columns:
                for track, value in zip(ids, table[column].to_pylist(), strict=True):
                    of_tracks[track] |= {} if value is None else {column: value}
            plays = {track: count for track, count in zip(ids, counts, strict=True) if count}
            given, without = self._spare.admit(number, plays, of_tracks)
            self._spare.write(record)
            said = f"{len(given):,} new tracks have got rows" if given else ""
            if without:
                said += (
                    f"{', ' if said else ''}{without:,} have found none free: raise --stream.spare-rows in a next run"
                )
        tracks = self._spare.tracks
        of_new = [tracks[track].row if track in tracks else WAITS for track in ids]
        row_of[np.flatnonzero(row_of == WAITS)] = of_new
        named = {row: NewName(track, tracks[track].names) for row, track in given.items()}
        return row_of, self._spare.num_rows, named, said

    def _renewed_plays(self, number: int, of_part_R: np.ndarray, given: list[int]) -> np.ndarray:
        """Of rank 0: how often each row in use was played recently, the part under way included; see `play_shares`.

        `given`: rows that tracks have got with this part.
        """
        file, half_life = record_of_plays(self.run.path, number), self.config.stream.half_life
        if file.exists() and self.position.step:
            return play_shares.read(file)
        if (before := record_of_plays(self.run.path, number - 1)).exists():
            before_R = play_shares.read(before)
        else:
            table = read_table(self.run.vocabulary.file, ["row", "count"])
            before_R = np.zeros(self.run.record.num_rows)
            before_R[table["row"].to_numpy()] = table["count"].to_numpy()
            before_R = play_shares.as_before(before_R, int(of_part_R.sum()), half_life)
        before_R[[row for row in given if row < len(before_R)]] = 0
        plays_R = play_shares.decayed(before_R, of_part_R, half_life)
        play_shares.write(plays_R, file)
        return plays_R

    def validate_part(self) -> Metrics:
        """The validation on all plays of the part but each session's first, before any is trained on."""
        protocol = self.config.selection.protocol
        evaluator = Evaluator(self.config, self.trainer.model, self._interruptible, num_rows=self._num_rows)
        held_out, sessions = HeldOut(self._mapped, "all"), self.config.selection.sessions
        with self.trainer.averaged():
            found = evaluator.measure((protocol,), "validation", held_out, sessions)[protocol]
        self._changed.forget_lookups()
        return found

    def step_done(self) -> None:
        if self.position.step % self.config.train.log_every == 0:
            self._changed.note()
        every = self.config.stream.delta_steps
        if every and self.position.step % every == 0 and self.position.step < self.num_steps:
            self.non_finite.check(self.run.path)
            self.publish()

    def save(self, best: bool = True) -> None:
        """Publishes what has changed, so that nothing is pending where the run goes on, and writes a checkpoint."""
        self.publish()
        super().save(best=True)

    def end_part(self) -> None:
        """Moves on to the next part and saves."""
        self.publish()
        self.move(epoch=self.position.epoch + 1, step=0)
        self._part = ""
        self.save()
        on_rank_0(self._prune)

    def publish(self) -> None:
        """Writes a delta of what has changed since the last one, if anything has."""
        self.stop_signal.restart_clock(Action.PUBLISH)
        nothing = self._published_at == self.position.steps and not self._new
        if self._publisher is None or not self._part or nothing:
            return
        rows_X, rows_XD = self._changed.take()
        change = TableChange(
            self.run, self.trainer.model, self._num_rows, rows_X, rows_XD, self._new, self._part, self._heard_until
        )
        self._hang_watch.heartbeat("publishing a delta")
        last = DeltaPoint.model_validate(self.results.get("delta", {}))
        with self.trainer.averaged():
            point = self._publisher(change, last)
        self._new, self._published_at = {}, self.position.steps
        self.move(results=self.results | {"delta": point.model_dump()})

    def close(self) -> None:
        """Ends without another part."""
        self.checkpoints.close()
        self.progress.close()

    def _prune(self) -> None:
        """Removes the records of rows that no checkpoint needs."""
        needed = self.position.epoch - self.config.checkpoint.keep - 2
        for file in record_of_rows(self.run.path, 0).parent.glob("[0-9]*.*"):
            if file.stem.isdigit() and int(file.stem) < needed:
                file.unlink()

    def _make_trainer(self, fresh: bool) -> None:
        """A model with the spare rows at its first step, with what `init_from` names."""
        self._hang_watch.heartbeat("making the model")
        record = self.run.record
        rows = record.num_rows + self.config.stream.spare_rows
        model = build_model(steady(self.config), self._store.num_tracks, rows, record.contexts)
        self._num_sessions = 0
        self.trainer = Trainer(steady(self.config), model, _NO_END)
        self.non_finite = NonFiniteCheck(model.module.learner)
        if fresh:
            self.trainer.start_from(self.run, rows)


def steady(config: RunConfig) -> RunConfig:
    """The config with the learning rates that its schedule ends with, which stay.

    Raises `UserError` where these are 0.
    """
    left = config.optimizer.decay_to
    if not left:
        raise UserError("--optimizer.decay-to 0 leaves no learning rate to go on with: set it above 0")
    optimizer = replace(
        config.optimizer, learning_rate=config.optimizer.learning_rate * left, decay_to=1.0, warmup_steps=0
    )
    table = replace(config.table, learning_rate=config.table.learning_rate * left)
    return replace(config, optimizer=optimizer, table=table)
