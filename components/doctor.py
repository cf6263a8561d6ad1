"""Check whether this machine can train: versions, devices, memory, and how the track table is sharded.

Example:
  skipwise doctor --tracks 1000000 --ranks 4
"""

import os
import platform
from dataclasses import dataclass

from skipwise.common.errors import UserError
from skipwise.common.versions import import_problems, installed, version_problems

FLOAT32_BYTES = 4
CPU_RANKS = 4
MIB = 2**20
MOST = {"tracks": 1 << 40, "dimension": 1 << 14, "ranks": 1 << 12}


@dataclass(frozen=True)
class DoctorConfig:
    """What `skipwise doctor` is asked. The defaults are those of the default recipe."""

    tracks: int = 1_000_000
    """Rows of the track table."""
    dimension: int = 128
    """Width of a track's embedding."""
    ranks: int | None = None
    """Processes that would train, all on this machine: by default one for each GPU, or 4 where there is none."""

    def __post_init__(self) -> None:
        for name in ("tracks", "dimension", "ranks"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST[name]:
                raise ValueError(f"--{name} is {value}: expected 1 to {MOST[name]}")


@dataclass(frozen=True)
class Shard:
    """The rows [first, end) of the track table that one rank holds."""

    rank: int
    first: int
    end: int
    weight_bytes: int
    optimizer_bytes: int


@dataclass(frozen=True)
class Machine:
    """What there is to train on. `gpu_memory` holds one entry in bytes for each card, and is empty on CPU."""

    cores: int
    memory: int
    gpu_names: tuple[str, ...] = ()
    gpu_memory: tuple[int, ...] = ()

    @property
    def backend(self) -> str:
        """The process group's backend."""
        return "nccl" if self.gpu_names else "gloo"


def plan_rows(tracks: int, dimension: int, ranks: int) -> list[Shard]:
    """Row-wise shards of a fp32 table with row-wise Adagrad: blocks of ceil(tracks / ranks), one state a row."""
    block = -(-tracks // ranks)
    shards = []
    for rank in range(ranks):
        first, end = min(rank * block, tracks), min((rank + 1) * block, tracks)
        rows = end - first
        shards.append(Shard(rank, first, end, rows * dimension * FLOAT32_BYTES, rows * FLOAT32_BYTES))
    return shards


def machine_problems(machine: Machine, shards: list[Shard], versions: dict[str, str | None]) -> list[str]:
    """One sentence, with its mend, for each way in which the plan does not fit the machine."""
    problems = []
    sizes = [shard.weight_bytes + shard.optimizer_bytes for shard in shards]
    if machine.gpu_names:
        if versions.get("fbgemm-gpu-cpu"):
            problems.append("torch sees a GPU and fbgemm is the CPU wheel: run `make setup DEVICE=gpu`")
        if len(shards) > len(machine.gpu_names):
            problems.append(
                f"{len(shards)} ranks on {len(machine.gpu_names)} GPU(s): each rank needs a card of its own, "
                f"so train with -j 1x{len(machine.gpu_names)}"
            )
        if max(sizes) > min(machine.gpu_memory):
            problems.append(
                f"a rank's share of the track table takes {_mib(max(sizes))} and a GPU has "
                f"{_mib(min(machine.gpu_memory))}: use more ranks, fewer tracks or a smaller dimension"
            )
    elif sum(sizes) > machine.memory:
        problems.append(
            f"the track table takes {_mib(sum(sizes))} and this machine has {_mib(machine.memory)}: "
            "use fewer tracks, a smaller dimension or more machines"
        )
    return problems


def look_at_machine() -> Machine:
    """Reads cores and memory from the system, and the cards from torch where it imports."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import torch
    except Exception:  # said by `import_problems`
        return Machine(cores, memory)
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return Machine(cores, memory, tuple(card.name for card in cards), tuple(card.total_memory for card in cards))


def doctor(config: DoctorConfig) -> None:
    """Prints versions, devices and the sharding plan, then what is wrong.

    Raises:
        UserError: if anything is.
    """
    versions = {"python": platform.python_version(), **installed()}
    problems = version_problems(versions) + import_problems(versions)
    machine = look_at_machine()
    shards = plan_rows(config.tracks, config.dimension, config.ranks or len(machine.gpu_names) or CPU_RANKS)
    problems += machine_problems(machine, shards, versions)
    print("\n".join([*_versions(versions), "", *_machine(machine), "", *_plan(config, shards), ""]))
    if problems:
        print("\n".join(f"problem: {problem}" for problem in problems))
        raise UserError(f"{len(problems)} problem(s) found: each line above that starts with 'problem' says its mend")
    print("well: no problem found")


def _versions(versions: dict[str, str | None]) -> list[str]:
    return ["versions", *(f"  {name:14}  {found or '-'}" for name, found in versions.items())]


def _machine(machine: Machine) -> list[str]:
    cards = [
        f"  GPU {index}           {name}, {_mib(memory)}"
        for index, (name, memory) in enumerate(zip(machine.gpu_names, machine.gpu_memory, strict=True))
    ]
    return [
        "machine",
        f"  cores           {machine.cores}",
        f"  memory          {_mib(machine.memory)}",
        *(cards or ["  GPU             none: training runs on CPU"]),
        f"  backend         {machine.backend}",
    ]


def _plan(config: DoctorConfig, shards: list[Shard]) -> list[str]:
    table = f"{config.tracks:,} tracks x {config.dimension} fp32"
    return [
        f"plan: {table}, row-wise over {len(shards)} rank(s), row-wise Adagrad",
        f"  {'rank':>4}  {'rows':>27}  {'weights':>12}  {'optimizer':>12}",
        *(
            f"  {shard.rank:>4}  {f'{shard.first:,} to {shard.end - 1:,}' if shard.end > shard.first else 'none':>27}"
            f"  {_mib(shard.weight_bytes):>12}  {_mib(shard.optimizer_bytes):>12}"
            for shard in shards
        ),
    ]


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"
