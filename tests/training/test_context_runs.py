"""Runs that read context columns: learned from, resumed, measured on other data, started from another run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import Signals
from skipwise.training.build import HeldOut, build_model, reading_inputs, train_loader, training_data
from skipwise.training.checkpoint.checkpoints import best_checkpoint
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import Evaluator, evaluate_run
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions, write_dataset
from tests.support.contexts import add_contexts, words
from tests.support.tables import initial_rows
from tests.training.checkpoint.test_resume import TRACKS, config_of, story_of, tensors_of, train_stopped_at
from tests.training.checkpoint.test_warm_start import SIGNALS, started, whole

INPUTS = ("skips", "device", "list")
STATE = "optimizer.table.table.embedding_bags.signals.weight.signals.momentum1"
COLUMNS = {"device": words("phone", "tv", None), "list": words("b", "d", "x")}


def reading(data: Path, run: Path, inputs: tuple[str, ...] = INPUTS, **options) -> RunConfig:
    config = config_of(data, run, **options)
    return replace(config, data=replace(config.data, inputs=inputs))


def dataset(folder: Path, columns: dict = COLUMNS, seed: int = 0, **options) -> Path:
    data = write_dataset(folder, random_sessions(160, TRACKS, seed=seed), TRACKS, **options)
    add_contexts(data, columns)
    return data


def test_the_head_finds_skips_that_the_context_tells(tmp_path: Path):
    """Whether the next track is skipped is said by the last play's device alone, and tracks are random.

    A quarter are. Shuffling leaves every twelfth device with its play: too few to take any play for skipped.
    """
    random = np.random.default_rng(0)
    devices = random.random((600, 12)) < 0.25
    plays = [(random.integers(0, 40, 12).tolist(), [0, *(2 * row[:-1]).tolist()]) for row in devices]
    data = write_dataset(tmp_path / "data", plays, 40, 50, 1, split={"test": 100, "train": 400, "validation": 100})
    add_contexts(data, {"device": lambda session, place: ("phone", "tv")[int(devices[session, place])]}, 50)
    accuracy = {}
    for name, inputs, flags in (
        ("read", ("device",), "recorded"),
        ("not read", (), "recorded"),
        ("shuffled", ("device",), "shuffled-input"),
    ):
        config = reading(data, tmp_path / name, inputs)
        config = replace(
            config,
            data=replace(config.data, skip_flags=flags),
            optimizer=replace(config.optimizer, learning_rate=0.003),
        )
        with process_group():
            store = reading_inputs(config, SessionStore(str(data)))
            model = build_model(config, store.num_tracks, contexts=store.contexts)
            trainer, loader = Trainer(config, model, 1000), train_loader(config, *training_data(store))
            for epoch in range(1, 9):
                for _ in trainer.steps(loader.epoch(epoch)):
                    pass
                trainer.detach()
            held_out = HeldOut.of(config.evaluate, store, "test")
            measured = Evaluator(config, model).measure(("served",), "test", held_out, 0)
        accuracy[name] = measured["served"]["next_skip_accuracy"]
    assert accuracy["read"] > 0.95 and max(accuracy["not read"], accuracy["shuffled"]) < 0.8, accuracy


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path):
    data = dataset(tmp_path / "data")
    with process_group():
        train(reading(data, tmp_path / "straight", epochs=2), "best")
        train_stopped_at(reading(data, tmp_path / "stopped", epochs=2), [3, 4])
    (lines, metrics, tensors), (others, other_metrics, other_tensors) = (
        story_of(tmp_path / name) for name in ("straight", "stopped")
    )
    assert (lines, metrics) == (others, other_metrics)
    assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
    record = json.loads((tmp_path / "straight" / "run.json").read_text())
    assert record["contexts"] == {"device": ["phone", "tv"], "list": ["b", "d", "x"]}
    assert SIGNALS in tensors and len(tensors[SIGNALS]) == 5 + 3 + 4


def test_other_context_is_not_gone_on_with(tmp_path: Path):
    """Sessions and values are the same, one play says another."""
    data = dataset(tmp_path / "data")
    config = reading(data, tmp_path / "run", epochs=1)
    with process_group():
        train(config, "best")
        before = Manifest.read(data)
        other = dataset(tmp_path / "other", COLUMNS | {"list": words("x", "b", "d")})
        assert (Manifest.read(other).data_hash, Manifest.read(other).contexts) == (before.data_hash, before.contexts)
        moved = replace(config, data=replace(config.data, path=str(other)))
        with pytest.raises(UserError, match="run on other data than"):
            train(moved, "best")
        config_file = tmp_path / "run" / "config.yaml"
        config_file.write_text(config_file.read_text().replace(str(data), str(other)))
        with pytest.raises(
            UserError, match="the context columns or profiles of .*other are not those .* prepare that data set"
        ):
            evaluate_run(RunDirectory.open(str(tmp_path / "run")), ("full",))


def test_other_data_are_read_by_the_values_of_the_run(tmp_path: Path):
    config = reading(dataset(tmp_path / "data"), tmp_path / "run", epochs=1)
    with process_group():
        run = RunDirectory.open(str(train(config, "best").path))
        options = {"seed": 5, "split": {"test": 60, "train": 60, "validation": 40}}
        same, new, unknown = (
            dataset(tmp_path / name, columns, **options)
            for name, columns in (
                ("same", COLUMNS),
                ("new", COLUMNS | {"device": words("a new one", "tv", None)}),
                ("unknown", COLUMNS | {"device": words(None, "tv", None)}),
            )
        )
        assert Manifest.read(new).contexts["device"] == ["a new one", "tv"], "'tv' has another code there"
        found = [evaluate_run(run, ("full",), str(data)).metrics for data in (same, new, unknown)]
        assert found[1] == found[2] != found[0]
        without = dataset(tmp_path / "without", {"list": COLUMNS["list"]}, **options)
        with pytest.raises(UserError, match=r"has no context column 'device' \(it has list\): prepare it again"):
            evaluate_run(run, ("full",), str(without))


def test_rows_of_values_are_taken_over_by_column_and_value(tmp_path: Path):
    later = {"device": words("car", "tv", None), "list": words("a", "d", "x", "z")}
    first, second = dataset(tmp_path / "first"), dataset(tmp_path / "second", later, seed=1)
    with process_group():
        train(reading(first, tmp_path / "before", epochs=2), "best")
        config = replace(reading(second, tmp_path / "after", epochs=1), init_from=str(tmp_path / "before"))
        parts = [started(config)]
        with pytest.raises(UserError, match="--data.inputs skips device list, not skips"):
            train(replace(reading(second, tmp_path / "other", ("skips",)), init_from=str(tmp_path / "before")), "best")
        train(config, "best")
    saved = tensors_of(best_checkpoint(tmp_path / "before"))
    rows = whole(parts, SIGNALS, saved[SIGNALS], 13)
    fresh = initial_rows(13, 16, config.table.init_bound, config.train.seed + (1 << 40))
    # Skips 0-4; device: unknown, car, tv; list: unknown, a, d, x, z. Before: unknown, phone, tv; unknown, b, d, x.
    source = [0, 1, 2, 3, 4, 5, None, 7, 8, None, 10, 11, None]
    for row, (now, before) in enumerate(zip(rows, source, strict=True)):
        assert torch.equal(now, fresh[row] if before is None else saved[SIGNALS][before]), row
    assert saved[STATE].count_nonzero() > 5


def test_common_rows_of_any_columns():
    here = Signals.of(("list", "skips"), {"list": ["b", "c"]})
    there = Signals.of(("skips", "device", "list"), {"device": ["c"], "list": ["a", "b"]})
    rows = [row.tolist() for row in here.common_rows(there)]
    assert rows == [[3, 4, 5, 6, 7, 0, 1], [0, 1, 2, 3, 4, 7, 9]]
    assert [row.tolist() for row in Signals.of(()).common_rows(there)] == [[], []]


def test_what_a_run_cannot_read(tmp_path: Path):
    data = dataset(tmp_path / "data")
    with process_group():
        with pytest.raises(UserError, match="--data.inputs hour: .* has skips, device, list; name these, or prepare"):
            train(reading(data, tmp_path / "run", ("skips", "hour")), "best")
        older = Manifest.read(data).model_copy(update={"contexts": {}, "context_checksums": {}})
        older.write(data)
        with pytest.raises(UserError, match="--data.inputs device: .* has skips; name these, or prepare the log again"):
            train(reading(data, tmp_path / "run"), "best")
        with pytest.raises(UserError, match="--data.inputs pause: .*prepare the log again with --pause$"):
            train(reading(data, tmp_path / "run", ("pause",)), "best")
        timed = reading(dataset(tmp_path / "timed", {"pause": words("7", "hour")}), tmp_path / "run", ("pause",))
        timed = replace(timed, encoder=replace(timed.encoder, times=True))
        with pytest.raises(UserError, match="--encoder.times reads pause as .*, and 'hour' is no logarithm"):
            train(timed, "best")
        assert not (tmp_path / "run").exists()
        assert SessionStore(str(data)).reading({"list": ["d"]}).read(np.array([0])).contexts.max() == 1
        with pytest.raises(UserError, match="--data.inputs device is a context column"):
            build_model(reading(data, tmp_path / "run"), TRACKS)
    with pytest.raises(ValueError, match="--data.inputs names device twice: name it once"):
        reading(data, tmp_path / "run", ("device", "device"))
