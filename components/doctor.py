"""Check whether this machine can train: versions, devices, memory, and how the track table is sharded.

Example:
  skipwise doctor --tracks 1000000 --ranks 4
"""

import platform
from dataclasses import dataclass, replace

from skipwise.common.errors import UserError
from skipwise.common.versions import installed, load_problems, version_problems
from skipwise.components.recipes.recommended import best
from skipwise.models.config import row_block
from skipwise.training.config import RunConfig
from skipwise.training.guards.machine_plan import Machine, machine_problems, read_machine
from skipwise.training.guards.memory_needs import size, training_needs

_CPU_RANKS = 4
_MOST = {"tracks": 1 << 40, "dimension": 1 << 14, "ranks": 1 << 12}


@dataclass(frozen=True)
class DoctorConfig:
    """The training to check for: the default recipe on a table of this size."""

    tracks: int = 1_000_000
    """Rows of the track table."""
    dimension: int = 128
    """Width of a track's embedding."""
    ranks: int | None = None
    """Processes that would train, all on this machine: by default one for each GPU, or 4 without a GPU."""

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"--{name} is {value}: expected 1 to {most}")
        if self.dimension % best().encoder.heads:
            raise ValueError(f"--dimension {self.dimension} must be a multiple of {best().encoder.heads}")

    @property
    def run(self) -> RunConfig:
        """The default recipe with a table of this width."""
        return replace(best(), table=replace(best().table, dim=self.dimension))


def doctor(config: DoctorConfig) -> None:
    """Prints versions, devices and the sharding plan, then each problem.

    Raises:
        UserError: if there is one.
    """
    versions = {"python": platform.python_version(), **installed()}
    problems = version_problems(versions) + load_problems(versions)
    machine = read_machine()
    world_size = config.ranks or len(machine.cards) or _CPU_RANKS
    problems += machine_problems(machine, config.run, config.tracks, world_size, versions)
    print("versions", *(f"  {name:14}  {found or '-'}" for name, found in versions.items()), "", sep="\n")
    print(*_machine(machine), "", *_plan(config, world_size), "", sep="\n")
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
        f"plan: {config.tracks:,} tracks x {config.dimension} fp32, row-wise over {world_size} rank(s)",
        *(f"  rank {rank:>4}  {text}" for rank, text in enumerate(rows)),
        f"memory of each rank: at least {size(sum(need.bytes for need in needs))}",
        *(f"  {need}" for need in needs),
    ]
