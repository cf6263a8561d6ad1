"""Whole runs: the same twice, and begun on one kind of device and ended on the other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import device
from skipwise.training.config import RunConfig
from skipwise.training.loop import train
from tests.conftest import random_sessions, write_dataset
from tests.training.checkpoint.test_resume import SESSIONS, TRACKS, config_of, stop_once, story_of, tensors_of

ADAM = "adam" if device().type == "cuda" else "adagrad"
"""FBGEMM has Adam for GPUs alone."""

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("runs") / "data", random_sessions(SESSIONS, TRACKS), TRACKS)


def two_epochs(data: Path, run: Path, recipe: str = "best", dropout: float = 0.0, **table) -> RunConfig:
    config = config_of(data, run, recipe, dropout, epochs=2)
    return replace(config, table=replace(config.table, **table))


def differences(one: Path, other: Path) -> dict[str, float]:
    """The largest difference of two runs' logged losses, of their metrics, and of their last checkpoints' weights."""
    stories = story_of(one), story_of(other)
    assert len(stories[0][0]) == len(stories[1][0]) and stories[0][2].keys() == stories[1][2].keys()
    logged = [
        abs(value - second[name])
        for first, second in zip(stories[0][0], stories[1][0], strict=True)
        for name, value in first.items()
        if isinstance(value, float)
    ]
    measured = [
        abs(value - stories[1][1][protocol]["test"][name])
        for protocol in ("served", "full", "paper")
        for name, value in stories[0][1][protocol]["test"].items()
        if isinstance(value, float)
    ]
    weights = [
        float((value.double() - stories[1][2][name].double()).abs().max())
        for name, value in stories[0][2].items()
        if name.startswith("model.")
    ]
    return {"losses": max(logged), "metrics": max(measured), "weights": max(weights)}


@pytest.mark.parametrize(
    ("recipe", "optimizer", "dropout"), [("best", "rowwise_adagrad", 0.2), ("unidir-skip-track", ADAM, 0.2)]
)
def test_the_same_run_twice(
    recipe: str, optimizer: str, dropout: float, group: None, data: Path, tmp_path: Path, record_property: Callable
):
    """On a CPU to the last bit. A card may add up in another order: cuDNN's GRU, which `best` has, promises none."""
    for name in ("one", "other"):
        train(two_epochs(data, tmp_path / name, recipe, dropout, optimizer=optimizer), recipe)
    apart = differences(tmp_path / "one", tmp_path / "other")
    record_property("differences", apart)
    bound = 0.0 if device().type == "cpu" else 1e-3
    assert apart["losses"] <= bound and apart["metrics"] <= 10 * bound and apart["weights"] <= 10 * bound


def to_the_end(config: RunConfig) -> None:
    train(config, "best")


def first_losses(config: RunConfig) -> None:
    stop_once(config, 3)


@pytest.mark.parametrize("first", ["cpu", "card"])
def test_a_run_goes_on_where_the_other_kind_of_device_left_it(
    first: str, group: None, on_cpu: Callable, data: Path, tmp_path: Path, record_property: Callable
):
    """Stopped after three of ten steps; then as a run that was never stopped, but for rounding."""
    on_card = {"cpu": on_cpu, "card": lambda function, *arguments: function(*arguments)}
    begins, ends = on_card[first], on_card["card" if first == "cpu" else "cpu"]
    config = two_epochs(data, tmp_path / "moved")
    begins(first_losses, config)
    (saved,) = (tmp_path / "moved" / "checkpoints").glob("train-*")
    before = tensors_of(saved)
    ends(to_the_end, config)
    on_cpu(to_the_end, replace(config, run_dir=str(tmp_path / "whole")))
    apart = differences(tmp_path / "moved", tmp_path / "whole")
    record_property("differences", apart)
    assert before and apart["losses"] < 2e-3 and apart["weights"] < 2e-2
    assert apart["metrics"] < 0.02, "a few of some hundred targets may change places"


def test_a_run_with_adam_rows_goes_on_as_if_never_stopped(
    group: None, data: Path, tmp_path: Path, record_property: Callable
):
    """The moments and the number of steps by which they are corrected come back with the rows, past a validation.

    They ask at each of five steps, before three batches of the validation, and at the steps of the second epoch.
    """
    config = two_epochs(data, tmp_path / "stopped", optimizer=ADAM, learning_rate=0.01)
    stop_once(config, 10)
    to_the_end(config)
    to_the_end(replace(config, run_dir=str(tmp_path / "whole")))
    apart = differences(tmp_path / "stopped", tmp_path / "whole")
    record_property("differences", apart)
    assert apart["losses"] < 1e-4 and apart["weights"] < 1e-3


def test_what_a_checkpoint_holds_is_what_the_card_has(group: None, data: Path, tmp_path: Path):
    """To the last bit, rows in float16 and the state of Adam too."""
    config = two_epochs(data, tmp_path / "run", optimizer=ADAM, precision="fp16")
    stop_once(config, 3)
    (saved,) = (tmp_path / "run" / "checkpoints").glob("train-*")
    held = tensors_of(saved)
    weight = held["model.table.embedding_bags.tracks.weight"]
    assert weight.dtype == torch.float16 and weight.isfinite().all()
    assert any(name.startswith("optimizer.") and tensor.any() for name, tensor in held.items())
