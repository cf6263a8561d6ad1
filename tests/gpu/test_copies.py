"""Batches on their way to the card: pinned, copied without waiting, and while the step before is computed."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.common.distributed import device
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import HeldOut, build_model, evaluation_loader, reading_inputs, train_loader
from skipwise.training.trainer import Trainer
from tests.gpu.conftest import TRACKS
from tests.gpu.test_same_as_cpu import small

pytestmark = pytest.mark.gpu


def tensors_of(batch: SessionBatch) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, KeyedJaggedTensor):
            found |= {"ids": value.values(), "lengths": value.lengths()}
        elif isinstance(value, Tensor):
            found[field.name] = value
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned_and_arrive_as_they_were(workers: int, group: None, sessions_path: Path):
    config = small("best", sessions_path)
    config = replace(config, data=replace(config.data, workers=workers))
    store = reading_inputs(config, SessionStore(config.data.path))
    pinned, batches = device().type == "cuda", list(train_loader(config, store).epoch(1))
    for batch in batches:
        here = tensors_of(batch)
        assert all(tensor.is_pinned() == pinned for tensor in here.values() if tensor.numel())
        there = tensors_of(batch.to(device(), non_blocking=True))
        assert all(tensor.device == device() for tensor in there.values())
        if pinned:
            torch.cuda.synchronize()
        assert all(torch.equal(there[name].cpu(), tensor) for name, tensor in here.items())
    held_out = HeldOut.of(config.evaluate, store, "validation")
    for (batch,) in evaluation_loader(config, held_out, ("served", "paper"), "validation", 0).epoch(0):
        assert batch.target_B.is_pinned() == batch.sessions.items_BT.is_pinned() == pinned


def test_the_next_batch_is_copied_on_a_stream_of_its_own(group: None, sessions_path: Path):
    """By the profiler's events. What they overlap with is up to the card, and no test."""
    config = small("unidir-skip-track", sessions_path)
    store = reading_inputs(config, SessionStore(config.data.path))
    trainer = Trainer(config, build_model(config, TRACKS).train(), total_steps=10)
    batches = train_loader(config, store).epoch(1)
    trainer.step(batches)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiler:
        trainer.step(batches)
        trainer.step(batches)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    on_card = [
        (event.name(), event.device_resource_id())
        for event in profiler.profiler.kineto_results.events()
        if event.device_type() == torch.profiler.DeviceType.CUDA
    ]
    if not on_card:
        pytest.skip("the profiler shows no events of a card here")
    copies = {stream for name, stream in on_card if name.startswith("Memcpy HtoD (Pinned")}
    computed = [stream for name, stream in on_card if "gemm" in name.lower() or "norm" in name.lower()]
    assert copies and computed and copies - set(computed), (copies, set(computed))
