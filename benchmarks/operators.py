"""`operators`: what a training step asks of the machine, by counts that depend on no clock and no other load.

A count is the same in every run of one program on one version of torch, so a test can refuse a step that does more.
It says nothing of how long the work takes.

- operators: calls of torch's operators below autograd, forward, backward and optimizers
- python calls: calls of Python functions
- flops: of matrix products, as torch counts them
- bytes: of all tensors that operators take and give, without views and FBGEMM's operators, which take the whole table
"""

import sys
from collections import Counter
from types import FrameType
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from skipwise.benchmarks.harness.batches import TrainingSteps, run_config
from skipwise.benchmarks.harness.benchmark_report import Report, table
from skipwise.benchmarks.harness.config import StepConfig
from skipwise.benchmarks.harness.operator_cases import OperatorsConfig
from skipwise.benchmarks.harness.synthetic import MemoryStore

COUNTS = ("operators", "python calls", "flops", "bytes")
_STEPS = 2  # as many as there are batches, so each is counted once


def measure(config: OperatorsConfig) -> Report:
    """Counts a step of each case."""
    counts: dict[str, int] = {}
    kinds: dict[str, Counter[str]] = {}
    for case in config.cases:
        kinds[case], found = count_step(config.step(case))
        counts |= {f"{case}: {name}": value for name, value in found.items()}
    return Report(
        name="operators",
        title="Operators of a training step",
        figures={"kinds": {case: dict(of.most_common()) for case, of in kinds.items()}},
        samples={},
        counts=counts,
        header=["case", *COUNTS],
        rows=[[case, *(f"{counts[f'{case}: {name}']:,}" for name in COUNTS)] for case in config.cases],
        notes=["", *table(["operator", *config.cases], _most_called(kinds))],
        draw=lambda figure: _draw(figure, counts, config.cases),
    )


def count_step(config: StepConfig) -> tuple[Counter[str], dict[str, int]]:
    """(calls of each operator, counts by the names of `COUNTS`): sums over some steps, after others that warm up."""
    steps = TrainingSteps(run_config(config), MemoryStore(_STEPS * config.batch, config.tracks, config.length))
    for _ in range(_STEPS):
        steps.step()
    with FlopCounterMode(display=False) as flops, _Operators() as operators:
        for _ in range(_STEPS):
            steps.step()
    values = sum(operators.calls.values()), _python_calls(steps), flops.get_total_flops(), operators.bytes
    return operators.calls, dict(zip(COUNTS, values, strict=True))


def _python_calls(steps: TrainingSteps) -> int:
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for _ in range(_STEPS):
            steps.step()
    finally:
        sys.setprofile(None)
    return calls


class _Operators(TorchDispatchMode):
    """Counts the operators that run in it, and the bytes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = operator(*args, **(kwargs or {}))
        self.calls[str(operator.overloadpacket)] += 1
        if not operator.is_view and operator.namespace != "fbgemm":
            leaves = tree_leaves((args, kwargs, outputs))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return outputs


def _most_called(kinds: dict[str, Counter[str]]) -> list[list[str]]:
    total = sum(kinds.values(), Counter[str]())
    return [[name, *(f"{of[name]:,}" for of in kinds.values())] for name, _ in total.most_common(15)]


def _draw(figure: Figure, counts: dict[str, int], cases: tuple[str, ...]) -> None:
    for axis, name in zip(figure.subplots(1, len(COUNTS), sharey=True), COUNTS, strict=True):
        axis.barh(cases, [counts[f"{case}: {name}"] for case in cases], color="#33658a")
        axis.set_title(name)
        axis.tick_params(axis="x", labelrotation=30)
    figure.axes[0].invert_yaxis()
