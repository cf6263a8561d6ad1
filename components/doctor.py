"""Check whether this machine can train: versions, devices, memory, and how the track table is sharded.

Examples:
  skipwise doctor --tracks 1000000 --ranks 4
  skipwise doctor --tracks 100000000 --ranks 64 --gpu-memory 80
"""

import platform
from dataclasses import dataclass, fields, replace
from typing import Literal

from skipwise.common.errors import UserError
from skipwise.common.versions import installed, load_problems, version_problems
from skipwise.components.recipes.recommended import best
from skipwise.models.config import row_block
from skipwise.training.config import RunConfig
from skipwise.training.guards.machine_plan import Machine, machine_problems, read_machine
from skipwise.training.guards.memory_needs import size, training_needs
from skipwise.training.guards.rank_plan import Ranks, plan_lines

_CPU_RANKS = 4
_MOST = {"tracks": 1 << 40, "dimension": 1 << 14, "ranks": 1 << 12, "node_ranks": 1 << 12, "batch_size": 1 << 24}
_OF_PLAN = ("node_ranks", "batch_size", "inside", "between", "step_ms")


@dataclass(frozen=True)
class DoctorConfig:
    """The training to check for: the default recipe on a table of this size."""

    tracks: int = 1_000_000
    """Rows of the track table."""
    dimension: int = 128
    """Width of a track's embedding."""
    ranks: int | None = None
    """Processes that would train, all on this machine: by default one for each GPU, or 4 without a GPU."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """As --table.precision of train."""
    exchange: Literal["fp32", "half"] = "fp32"
    """As --table.exchange of train."""
    gpu_memory: float | None = None
    """GB of each rank's GPU: explains a plan for such ranks on many nodes, in place of checking this machine."""
    node_ranks: int = 8
    """Of that plan: ranks on each node."""
    batch_size: int | None = None
    """Of that plan: sessions of a global batch, by default 128 a rank."""
    inside: float | None = None
    """Of that plan: GB/s that a rank sends to others of its node, as measured; 200 is assumed where not given."""
    between: float | None = None
    """Of that plan: GB/s that a rank sends to other nodes, as measured; 25 is assumed where not given."""
    step_ms: float | None = None
    """Of that plan: milliseconds of a step on one rank alone, as `python -m skipwise.benchmarks step` measures it."""

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: expected 1 to {most}")
        for name in ("gpu_memory", "inside", "between", "step_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} is {value}: expected a number above 0")
        for field in fields(self) if self.gpu_memory is None else ():
            if field.name in _OF_PLAN and getattr(self, field.name) != field.default:
                raise ValueError(f"--{field.name.replace('_', '-')} is of a plan for other machines: add --gpu-memory")
        if self.gpu_memory is not None and self.batch_size and self.batch_size % self.planned_ranks:
            raise ValueError(f"--batch-size {self.batch_size} must be a multiple of --ranks {self.planned_ranks}")
        if self.dimension % best().encoder.heads:
            raise ValueError(f"--dimension {self.dimension} must be a multiple of {best().encoder.heads}")

    @property
    def planned_ranks(self) -> int:
        """Ranks of a plan, which this machine's devices do not bound."""
        return self.ranks or _CPU_RANKS

    @property
    def run(self) -> RunConfig:
        """The default recipe with such a table and, for a plan, such a batch."""
        recipe = best()
        table = replace(recipe.table, dim=self.dimension, precision=self.precision, exchange=self.exchange)
        if self.gpu_memory is None:
            return replace(recipe, table=table)
        ranks = self.planned_ranks
        batch_size = self.batch_size or recipe.data.batch_size * ranks
        return replace(recipe, table=table, data=replace(recipe.data, batch_size=batch_size, lanes=ranks))


def doctor(config: DoctorConfig) -> None:
    """Prints versions, devices and the sharding plan, then each problem.

    Raises:
        UserError: if there is one.
    """
    versions = {"python": platform.python_version(), **installed()}
    problems = version_problems(versions) + load_problems(versions)
    machine = read_machine()
    if config.gpu_memory is None:
        world_size = config.ranks or len(machine.cards) or _CPU_RANKS
        plan = _plan(config, world_size)
        problems += machine_problems(machine, config.run, config.tracks, world_size, versions)
    else:
        data = config.run.data
        rates = config.inside, config.between, config.step_ms
        ranks = Ranks(config.planned_ranks, config.node_ranks, config.gpu_memory, *rates)
        plan, unfit = plan_lines(config.run, config.tracks, ranks)
        plan.insert(0, f"plan for --data.batch-size {data.batch_size} --data.lanes {data.lanes}, not for this machine")
        problems += unfit
    print("versions", *(f"  {name:14}  {found or '-'}" for name, found in versions.items()), "", sep="\n")
    print(*_machine(machine), "", *plan, "", sep="\n")
    if problems:
        print(*(f"problem: {problem}" for problem in problems), sep="\n")
        raise UserError(f"{len(problems)} problem(s) found: each line above that starts with 'problem' has its remedy")
    print("well: no problem found")


def _machine(machine: Machine) -> list[str]:
    cards = [
        f"  GPU {index}           {card.name}, {size(card.memory)}, {size(card.free)} free"
        for index, card in enumerate(machine.cards)
    ]
    free = "" if machine.free is None else f", {size(machine.free)} free"
    return [
        "machine",
        f"  cores           {machine.cores}",
        f"  memory          {size(machine.memory)}{free}",
        *(cards or ["  GPU             none: training runs on CPU"]),
        f"  backend         {'nccl' if machine.cards else 'gloo'}",
    ]


def _plan(config: DoctorConfig, world_size: int) -> list[str]:
    needs = training_needs(config.run, config.tracks, config.run.encoder.max_length, world_size)
    rows = [
        f"rows {first:,} to {end - 1:,}" if end > first else "no rows"
        for first, end in (row_block(config.tracks, rank, world_size) for rank in range(world_size))
    ]
    return [
        f"plan: {config.tracks:,} tracks x {config.dimension} {config.precision}, row-wise over {world_size} rank(s)",
        *(f"  rank {rank:>4}  {text}" for rank, text in enumerate(rows)),
        f"memory of each rank: at least {size(sum(need.bytes for need in needs))}",
        *(f"  {need}" for need in needs),
    ]
