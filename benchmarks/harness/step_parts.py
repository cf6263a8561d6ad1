"""How a training step's time divides into parts, measured by hooks on the modules of the real step.

On a GPU every part waits for the device at both its ends, so parts add up to more than a step without hooks.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.autograd.graph import Node
from torch.profiler import ProfilerActivity, profile, record_function
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.benchmarks.harness.timing import clock
from skipwise.common.distributed import world_size

PARTS = ("lookup", "encoder", "heads", "backward", "table update", "dense update", "rest")
"""They add up to the step: `backward` is without the table's part of it, which is `table update`."""

_STEP = "benchmarked step"
_COLLECTIVES = ("gloo:", "nccl")


def measure_parts(
    step: Callable[[], object], model: DistributedModelParallel, optimizer: Any, steps: int
) -> dict[str, dict[str, float]]:
    """P50 and P90 in ms of each part, of the whole `step`, and of `communication` where ranks communicate.

    `step` takes a training step of `model` and `optimizer`, whose hooks remain: measure other things before.
    Communication is how long the collectives were open, beside the other parts or inside them.
    """
    timer = _PartTimer(model, optimizer)
    found: dict[str, list[float]] = {name: [] for name in ("step", *PARTS)}
    for _ in range(steps):
        for name, seconds in timer.during(step).items():
            found[name].append(seconds)
    if world_size() > 1:
        found["communication"] = _communication(step, steps)
    return {
        name: {"p50_ms": 1000 * float(np.quantile(seconds, 0.5)), "p90_ms": 1000 * float(np.quantile(seconds, 0.9))}
        for name, seconds in found.items()
    }


class _PartTimer:
    """Records when a step passes from one part to the next."""

    def __init__(self, model: DistributedModelParallel, optimizer: Any):
        self._at: dict[str, float] = {}
        self._table_s = 0.0
        task = model.module
        task.table.register_forward_pre_hook(self._marks("lookup"))
        task.learner.register_forward_pre_hook(self._looked_up)
        task.learner.encoder.register_forward_pre_hook(self._marks("encoder"))
        task.learner.encoder.register_forward_hook(self._marks("encoded"))
        task.learner.register_forward_hook(self._scored)
        take_step = optimizer.step

        def step(*arguments: Any, **options: Any) -> object:
            self._at["backward done"] = clock()
            result = take_step(*arguments, **options)
            self._at["updated"] = clock()
            return result

        optimizer.step = step

    def during(self, step: Callable[[], object]) -> dict[str, float]:
        """Seconds of each part of one step, and of the step."""
        self._table_s = 0.0
        start = clock()
        step()
        total, at = clock() - start, self._at
        backward_s = at["backward done"] - at["backward"]
        parts = {
            "lookup": at["looked up"] - at["lookup"],
            "encoder": at["encoded"] - at["encoder"],
            "heads": at["scored"] - at["looked up"] - (at["encoded"] - at["encoder"]),
            "backward": backward_s - self._table_s,
            "table update": self._table_s,
            "dense update": at["updated"] - at["backward done"],
        }
        return parts | {"rest": total - sum(parts.values()), "step": total}

    def _marks(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._at[name] = clock()

        return hook

    def _looked_up(self, learner: nn.Module, inputs: tuple[Tensor, Any]) -> None:
        self._at["looked up"] = clock()
        # FBGEMM updates its rows in the lookup's own backward node, right after it has summed their gradients.
        for node in _nodes(inputs[0].grad_fn):
            if "Lookup" in node.name():
                node.register_prehook(self._marks("update"))
                node.register_hook(self._updated)

    def _scored(self, learner: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, Any]) -> None:
        self._at["scored"] = clock()
        outputs[0].register_hook(self._marks("backward"))

    def _updated(self, *_: Any) -> None:
        self._table_s += clock() - self._at["update"]


def _nodes(last: Node | None) -> Iterator[Node]:
    waiting = [last]
    while waiting:
        if node := waiting.pop():
            yield node
            waiting += [before for before, _ in node.next_functions]


def _communication(step: Callable[[], object], steps: int) -> list[float]:
    """Seconds of each step in which some collective was open, by the profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it announces each start and stop
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            with record_function(_STEP):
                step()
                clock()
    spans = [
        (event.name == _STEP, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in profiler.events()
        # A GPU's timeline shows the steps a second time.
        if (event.name == _STEP and event.device_type == DeviceType.CPU) or event.name.startswith(_COLLECTIVES)
    ]
    collectives = [(first, last) for is_step, first, last in spans if not is_step]
    return [open_seconds(collectives, first, last) for is_step, first, last in spans if is_step]


def open_seconds(spans: list[tuple[float, float]], start: float, end: float) -> float:
    """How long between `start` and `end` at least one of the spans (first, last) was open."""
    total, covered = 0.0, start
    for first, last in sorted(spans):
        first, last = max(first, covered), min(last, end)
        if first < last:
            total, covered = total + last - first, last
    return total
