"""Numbers that go wrong are traced to the first step, the rank and the sessions, and never reach a checkpoint."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skipwise.common.distributed import process_group, rank
from skipwise.common.errors import UserError
from skipwise.datapipes.batch import SessionBatch
from skipwise.models.task import StepLosses
from skipwise.training.checkpoint.checkpoints import find_newest
from skipwise.training.config import RunConfig
from skipwise.training.guards.non_finite import FILE
from skipwise.training.guards.stop_signal import StopSignal
from skipwise.training.loop import train
from skipwise.training.run.directory import CHECKPOINTS
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.training.checkpoint.test_resume import SESSIONS, STEPS, TRACKS, config_of, tensors_of

BAD_SESSION = 77


@pytest.fixture
def data(make_dataset) -> Path:
    """One session alone plays track 149, in its middle."""
    sessions = [([row % (TRACKS - 1) for row in rows], skips) for rows, skips in random_sessions(SESSIONS, TRACKS)]
    rows, skips = sessions[BAD_SESSION]
    rows[len(rows) // 2 - 1] = TRACKS - 1
    sessions[BAD_SESSION] = rows, [0] * len(skips)
    return make_dataset(sessions, TRACKS)


def train_poisoned(config: RunConfig, value: float) -> str:
    """Trains with a bad number in the one row of track 149, which no negatives are drawn from; the refusal."""
    make = Trainer.__init__

    def poisoned(self: Trainer, *arguments, **options) -> None:
        make(self, *arguments, **options)
        for shard in self.model.state_dict()["table.embedding_bags.tracks.weight"].local_shards():
            last = shard.metadata.shard_offsets[0] + len(shard.tensor)
            if last == TRACKS:
                shard.tensor[-1, 3] = value

    Trainer.__init__ = poisoned
    try:
        with pytest.raises(UserError) as refused:
            train(config, "best")
    finally:
        Trainer.__init__ = make
    return f"{rank()}: {refused.value}"


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_bad_number_is_traced_to_its_session(ranks: int, data: Path, tmp_path: Path):
    """Found out of the run's own order of sessions: the fault is named at the step that reads the bad session."""
    config = config_of(data, tmp_path / "run", epochs=1)
    # So few negatives that the bad row is not among them before its session comes.
    config = replace(
        config,
        data=replace(config.data, negatives=1),
        checkpoint=replace(config.checkpoint, every=1, keep=10),
    )
    sentences = run_on_ranks(tmp_path, ranks, train_poisoned, config, float("nan"))
    assert len({sentence.split(": ", 1)[1] for sentence in sentences}) == 1, "all ranks say the same"
    fault = json.loads((tmp_path / "run" / FILE).read_text())
    assert BAD_SESSION in fault["sessions"]
    assert f"epoch 1, step {fault['step']}, on rank {fault['rank']}" in sentences[0]
    assert all(str(number) in sentences[0] for number in fault["sessions"][:8])
    assert len(fault["sessions"]) == 32 // ranks
    with process_group():
        newest = find_newest(tmp_path / "run")
        if fault["step"] == 1:
            assert newest is None
            return
        name, index = newest
        assert index.position.step == fault["step"] - 1, "the last good state is the one before"
        for tensor in tensors_of(tmp_path / "run" / CHECKPOINTS / name).values():
            assert tensor[: TRACKS - 1].isfinite().all()


def test_a_gradient_alone_is_enough(data: Path, tmp_path: Path, monkeypatch):
    """The loss of that step is finite; the next one would not be."""
    step, done = Trainer.step, []

    def spoiled(self: Trainer, batches: Iterator[SessionBatch]) -> StepLosses:
        done.append(step(self, batches))
        if len(done) == 3:
            next(iter(self.model.module.learner.parameters())).grad[0] = float("inf")
        return done[-1]

    monkeypatch.setattr(Trainer, "step", spoiled)
    with process_group(), pytest.raises(UserError, match="gradient of the encoder is not finite at epoch 1, step 3"):
        train(config_of(data, tmp_path / "run"), "best")


def test_found_within_a_logging_interval_where_looking_waits_for_the_device(data: Path, tmp_path: Path, monkeypatch):
    """As on a GPU: steps are not looked at one by one."""
    monkeypatch.setattr("skipwise.training.guards.non_finite.SYNCHRONOUS_DEVICES", ())
    asked = []
    sync_action = StopSignal.sync_action
    monkeypatch.setattr(
        StopSignal, "sync_action", lambda self, failed=False: (asked.append(failed), sync_action(self, failed))[1]
    )
    config = config_of(data, tmp_path / "run", log_every=2)
    broken = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30, clip_norm=0.0, warmup_steps=0))
    with process_group(), pytest.raises(UserError, match="is not finite at epoch 1, step 2"):
        train(broken, "best")
    assert asked == [False, True] and STEPS > 2
