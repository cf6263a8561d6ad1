"""Resuming equals not stopping: to the last bit on the same ranks, to 1e-6 on others; what cannot go on is refused."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.active_run import ActiveRun
from skipwise.training.checkpoint import checkpoints as checkpoint
from skipwise.training.checkpoint.checkpoint_index import read_index
from skipwise.training.checkpoint.checkpoints import best_checkpoint, find_newest
from skipwise.training.checkpoint.storage import read_rows
from skipwise.training.config import RunConfig
from skipwise.training.guards import stop_signal as stop_signal_module
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.stop_signal import Action, Stopped, StopSignal
from skipwise.training.loop import train
from skipwise.training.run.directory import CHECKPOINTS
from skipwise.training.run.position import Position
from skipwise.training.run.start import create_or_resume_run
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks

TRACKS, SESSIONS, BATCH = 150, 160, 32
STEPS = SESSIONS // BATCH
"""Steps of an epoch."""


def config_of(
    data: Path, run: Path, recipe: str = "best-skip-blind", dropout: float = 0.0, **train_options
) -> RunConfig:
    config = RECIPES[recipe]()
    return replace(
        config,
        run_dir=str(run),
        data=replace(
            config.data, path=str(data), batch_size=BATCH, lanes=4, negatives=40, shuffle_groups=2, inputs=("skips",)
        ),
        loss=replace(config.loss, keep=0.5, keep_dropout=dropout),
        table=replace(config.table, dim=16),
        encoder=replace(config.encoder, heads=2, hidden=16, dropout=dropout, track_dropout=dropout),
        optimizer=replace(config.optimizer, warmup_steps=7, decay_to=0.5),
        train=replace(
            config.train,
            **({"epochs": 3, "patience": 0, "refit": False, "matmul": "highest", "log_every": 1} | train_options),
        ),
        evaluate=replace(config.evaluate, candidates=100, batch_size=64),
    )


@pytest.fixture
def data(make_dataset) -> Path:
    return make_dataset(random_sessions(SESSIONS, TRACKS), TRACKS)


def train_stopped_at(config: RunConfig, stops: list[int]) -> None:
    """Trains to the end, stopped as by SIGTERM at the n-th time that the ranks ask each other, for each n in turn."""
    request = StopSignal._request
    for stop in stops:
        left = [stop]

        def request_once(self: StopSignal, failed: bool, left: list[int] = left) -> Action:
            left[0] -= 1
            return Action.STOP if left[0] == 0 else request(self, failed)

        StopSignal._request = request_once
        try:
            train(config, "best")
        except Stopped as stopped:
            assert stopped.code == 0
        else:
            raise AssertionError(f"asked only {stop - left[0]} times, not {stop}")
        finally:
            StopSignal._request = request
    train(config, "best")


def story_of(run: Path) -> tuple[list[dict], dict, dict[str, torch.Tensor]]:
    """What a run logged and measured, times left out, and the tensors of its last checkpoint."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [{name: value for name, value in line.items() if name != "sessions_per_s"} for line in lines]
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["train"] = {name: metrics["train"][name] for name in ("epochs", "best_epoch")}
    return logged, metrics, tensors_of(best_checkpoint(run))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    index = read_index(folder / "checkpoint.json")
    return {
        name: read_rows(folder, index, name, 0, tensor.shape[0])
        for name, tensor in index.tensors.items()
        if tensor.shape
    }


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance, msg=name)


# They ask at each of 5 steps and before each of 3 batches of validation: 24 times in 3 epochs; before 6 batches of the
# best weights' validation; at 5 to 15 steps of the refit, and before 6 batches of the test.
STOPS = {
    "in the first step, in the middle, at an epoch's last step": [1, 2, 1],
    "in a validation, twice": [6, 2],
    "after the last epoch": [29],
    "in the refit and in the test": [37, 8],
}


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [1, 2])
def test_on_the_same_ranks_to_the_last_bit(ranks: int, data: Path, tmp_path: Path):
    """Dropout, warm-up, decay, a mean of weights, a refit and a thread that reads ahead: all go on as if nothing had
    been."""
    config = config_of(data, tmp_path / "whole", dropout=0.2, refit=True)
    config = replace(config, optimizer=replace(config.optimizer, average=0.9))
    places = list(STOPS)[::ranks]
    stopped = [(replace(config, run_dir=str(tmp_path / where)), STOPS[where]) for where in places]
    run_on_ranks(tmp_path, ranks, train_all, [(config, []), *stopped])
    whole = story_of(tmp_path / "whole")
    for where in places:
        story = story_of(tmp_path / where)
        assert story[:2] == whole[:2]
        assert_equal(story[2], whole[2])


def train_all(runs: list[tuple[RunConfig, list[int]]]) -> None:
    for config, stops in runs:
        train_stopped_at(config, stops)


@pytest.mark.ranks
def test_on_4_2_1_and_4_ranks(data: Path, tmp_path: Path):
    config = config_of(data, tmp_path / "whole")
    run_on_ranks(tmp_path, 4, train_stopped_at, config, [])
    moved = replace(config, run_dir=str(tmp_path / "moved"))
    for ranks, steps in ((4, 3), (2, 5), (1, 4)):
        run_on_ranks(tmp_path, ranks, stop_once, moved, steps)
    run_on_ranks(tmp_path, 4, train_stopped_at, moved, [])
    whole, parts = (story_of(tmp_path / name) for name in ("whole", "moved"))
    assert len(whole[0]) == 3 * STEPS + 3
    for line, other in zip(whole[0], parts[0], strict=True):
        assert line == pytest.approx(other, abs=1e-6)
    assert whole[1]["train"] == parts[1]["train"]
    assert_equal(whole[2], parts[2], tolerance=1e-6)


def stop_once(config: RunConfig, steps: int) -> None:
    request, left = StopSignal._request, [steps]

    def request_once(self: StopSignal, failed: bool) -> Action:
        left[0] -= 1
        return Action.STOP if left[0] == 0 else request(self, failed)

    StopSignal._request = request_once
    with pytest.raises(Stopped):
        train(config, "best")


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("table_wise", "rowwise_adagrad", 2), ("row_wise", "rowwise_adagrad", 4)),
        (("row_wise", "rowwise_adagrad", 4), ("table_wise", "rowwise_adagrad", 2)),
        (("column_wise", "adagrad", 2), ("row_wise", "adagrad", 4)),
        (("row_wise", "adagrad", 2), ("column_wise", "adagrad", 4)),
    ],
)
def test_other_shardings_take_rows_and_state_over(before: tuple, after: tuple, data: Path, tmp_path: Path):
    """To the last bit: what follows is then what training on that sharding makes of them."""
    for (sharding, optimizer, ranks), function in ((before, stop_once), (after, shards_read)):
        config = config_of(data, tmp_path / "run")
        config = replace(config, table=replace(config.table, sharding=sharding, optimizer=optimizer))
        parts = run_on_ranks(tmp_path, ranks, function, config, 7)
    saved = tensors_of(tmp_path / "run" / CHECKPOINTS / Position(epoch=1, step=5).name)
    for name in TABLE_TENSORS:
        found = torch.full_like(saved[name], float("nan"))
        for offsets, piece in [shard for part in parts for shard in part.get(name, ())]:
            found[tuple(slice(at, at + size) for at, size in zip(offsets, piece.shape, strict=True))] = piece
        assert torch.equal(found, saved[name]) and saved[name].abs().min() > 0


TABLE_TENSORS = (
    "model.table.embedding_bags.tracks.weight",
    "optimizer.table.table.embedding_bags.tracks.weight.tracks.momentum1",
)


def shards_read(config: RunConfig, _: int) -> dict[str, list[tuple[list[int], torch.Tensor]]]:
    """What `train` reads at its start into this rank's shards of the rows and of the fused optimizer's state."""
    store = SessionStore(config.data.path)
    with StopSignal(0) as stop_signal:
        tensors = ActiveRun(
            create_or_resume_run(config, "best", store), store, stop_signal, HangWatch(0)
        ).trainer.tensors()
    return {
        name: [(shard.metadata.shard_offsets, shard.tensor.clone()) for shard in tensors[name].local_shards()]
        for name in TABLE_TENSORS
        if name in tensors  # table-wise, one rank alone has them
    }


def refusal_of(config: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        train(config, "best")
    return str(caught.value)


@pytest.mark.ranks
def test_column_shards_with_a_state_each_are_refused_on_other_ranks(data: Path, tmp_path: Path):
    config = config_of(data, tmp_path / "run")
    config = replace(config, table=replace(config.table, sharding="column_wise"))
    run_on_ranks(tmp_path, 2, stop_once, config, 3)
    for sharding, ranks in (("column_wise", 4), ("row_wise", 2)):
        other = replace(config, table=replace(config.table, sharding=sharding))
        for sentence in run_on_ranks(tmp_path, ranks, refusal_of, other):
            assert "column shards keep a state each" in sentence


def test_checkpoints_kept_and_named(data: Path, tmp_path: Path):
    config = config_of(data, tmp_path / "run", epochs=4)
    config = replace(config, checkpoint=replace(config.checkpoint, every=2, keep=3))
    with process_group():
        train(config, "best")
    folder = tmp_path / "run" / CHECKPOINTS
    best = (folder / "best").read_text().strip()
    epoch = json.loads((tmp_path / "run" / "metrics.json").read_text())["train"]["best_epoch"]
    assert best == Position(epoch=epoch + 1).name
    assert (folder / "latest").read_text().strip() == Position(epoch=5).name
    newest = {Position(epoch=5).name, Position(epoch=4, step=4).name, Position(epoch=4, step=2).name}
    assert {path.name for path in folder.iterdir()} == newest | {best, "best", "latest"}


def test_the_clock_asks_for_checkpoints(data: Path, tmp_path: Path, monkeypatch):
    """One a step when each step takes a minute."""
    ticks = iter(range(10_000))
    # The module's own clock: other threads of this process live by the real one.
    monkeypatch.setattr(stop_signal_module, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(ticks)))
    config = config_of(data, tmp_path / "run", epochs=1)
    config = replace(config, checkpoint=replace(config.checkpoint, minutes=2.0, keep=10))
    with process_group():
        train(config, "best")
    names = {path.name for path in (tmp_path / "run" / CHECKPOINTS).glob("*/")}
    assert {Position(step=step).name for step in (2, 4)} <= names


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "missing part", "torn index", "other content"])
def test_a_damaged_checkpoint_is_skipped_with_a_sentence(damage: str, data: Path, tmp_path: Path, monkeypatch):
    """Sometimes with a whole one beside it, sometimes with none."""
    left = int(damage in ("flipped bit", "torn index"))
    config = config_of(data, tmp_path / "whole")
    stopped = replace(config, run_dir=str(tmp_path / "stopped"), checkpoint=replace(config.checkpoint, every=1, keep=2))
    with process_group():
        train(config, "best")
        stop_once(stopped, 4)
        names = sorted((tmp_path / "stopped" / CHECKPOINTS).glob("*/"))
        assert [name.name for name in names] == [Position(step=step).name for step in (3, 4)]
        for name in names[left:]:
            spoil(name, damage)
        said = []
        monkeypatch.setattr(checkpoint.logger, "warning", said.append)
        train_stopped_at(stopped, [])
    assert len(said) == 2 - left and all("skipped a damaged checkpoint" in one and "\n" not in one for one in said)
    assert len(list((tmp_path / "stopped" / CHECKPOINTS).glob("damaged-*/"))) == 2 - left
    stories = [story_of(tmp_path / name) for name in ("whole", "stopped")]
    assert stories[0][:2] == stories[1][:2]
    assert_equal(stories[0][2], stories[1][2])


def spoil(folder: Path, damage: str) -> None:
    part, index = folder / "part-00000.safetensors", folder / "checkpoint.json"
    content = bytearray(part.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 2] ^= 4
        part.write_bytes(content)
    elif damage == "cut short":
        part.write_bytes(content[:-1])
    elif damage == "missing part":
        part.unlink()
    elif damage == "torn index":
        index.write_text(index.read_text()[:-100])
    else:
        index.write_text(index.read_text().replace('"step": 4', '"step": 3').replace('"step": 3', '"step": 2'))


def test_what_is_not_this_run_is_refused(data: Path, make_dataset, tmp_path: Path):
    config = config_of(data, tmp_path / "run")
    with process_group():
        stop_once(config, 3)
        before = find_newest(tmp_path / "run")
        other = replace(config, optimizer=replace(config.optimizer, learning_rate=0.5))
        assert f"with --optimizer.learning-rate {config.optimizer.learning_rate}, not 0.5" in refusal_of(other)
        with pytest.raises(UserError, match="an unfinished run of best, not bidir"):
            train(config, "bidir")
        other_loss = replace(config, loss=replace(config.loss, mask_repeats=False))
        assert "with --loss.mask-repeats, not --loss.no-mask-repeats: go" in refusal_of(other_loss)
        elsewhere = make_dataset(random_sessions(SESSIONS, TRACKS - 1, seed=1), TRACKS - 1)
        assert "on other data than" in refusal_of(replace(config, data=replace(config.data, path=str(elsewhere))))
        split = {"train": SESSIONS - 20, "validation": 10, "test": 10}
        resplit = make_dataset(random_sessions(SESSIONS, TRACKS), TRACKS, split=split)
        assert "or another split of them" in refusal_of(replace(config, data=replace(config.data, path=str(resplit))))
        assert "choose another --run-dir" in refusal_of(replace(config, resume="never"))
        assert find_newest(tmp_path / "run") == before
        # The same data elsewhere, other threads and another log are the same run.
        moved = tmp_path / "moved"
        shutil.copytree(data, moved)
        train_stopped_at(
            replace(
                config,
                data=replace(config.data, path=str(moved), workers=0),
                train=replace(config.train, log_every=2),
            ),
            [],
        )
        metrics = (tmp_path / "run" / "metrics.json").read_bytes()
        train(config, "best")
        assert (tmp_path / "run" / "metrics.json").read_bytes() == metrics, "a finished run is left as it is"
        said = refusal_of(other)
        assert "holds a finished run with --optimizer.learning-rate" in said and "show --run" in said


@pytest.mark.parametrize("times", [1, 5, 12])
def test_a_full_disk_ends_in_a_sentence_and_leaves_the_last_whole_one(
    times: int, data: Path, tmp_path: Path, monkeypatch
):
    """Three calls wait for the disk in each checkpoint: its file, its index, its folder."""
    config = config_of(data, tmp_path / "whole", epochs=2)
    full = replace(config, run_dir=str(tmp_path / "full"), checkpoint=replace(config.checkpoint, every=1))
    left, fsync = [times], os.fsync

    def fsync_until_full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with process_group():
        train(config, "best")
        monkeypatch.setattr(os, "fsync", fsync_until_full)
        assert "cannot take a checkpoint (No space left on device): fix that" in refusal_of(full)
        monkeypatch.undo()
        newest = find_newest(tmp_path / "full")
        assert (newest is None) == (times < 4)
        train(full, "best")
    stories = [story_of(tmp_path / name) for name in ("whole", "full")]
    assert stories[0][:2] == stories[1][:2]
    assert not list((tmp_path / "full" / CHECKPOINTS).glob(".*")), "something half-written is left"
