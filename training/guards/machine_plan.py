"""What `skipwise doctor` asks: this machine's devices and memory, and whether a training fits them.

Needs torch only to look for GPUs.
"""

import os
from contextlib import suppress
from dataclasses import dataclass

from skipwise.common.errors import UserError
from skipwise.common.machine import available_memory, usable_cores
from skipwise.training.config import RunConfig
from skipwise.training.guards.memory_needs import check_memory, training_needs


@dataclass(frozen=True)
class Card:
    """A GPU: its memory, and what of it is free, in bytes."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """What there is to train on; `free`: bytes of host memory that processes may still take, None if unknown."""

    cores: int
    memory: int
    free: int | None
    cards: tuple[Card, ...] = ()


def read_machine() -> Machine:
    """Reads cores and memory from the system, and the GPUs from torch where it imports."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cards: list[Card] = []
    with suppress(Exception):  # reported by `load_problems`
        import torch

        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            cards.append(Card(torch.cuda.get_device_name(index), total, free))
    return Machine(usable_cores(), memory, available_memory(), tuple(cards))


def machine_problems(
    machine: Machine, config: RunConfig, num_tracks: int, world_size: int, versions: dict[str, str | None]
) -> list[str]:
    """One sentence, with its remedy, for each reason why `world_size` ranks cannot train `config` on the machine."""
    problems = []
    if machine.cards and versions.get("fbgemm-gpu-cpu"):
        problems.append("torch sees a GPU and fbgemm is the CPU wheel: run `make setup DEVICE=gpu`")
    if machine.cards and world_size > len(machine.cards):
        problems.append(
            f"{world_size} ranks on {len(machine.cards)} GPU(s): each rank needs a GPU of its own, "
            f"so train with -j 1x{len(machine.cards)}"
        )
    needs = training_needs(config, num_tracks, config.encoder.max_length, world_size)
    gpu = min((card.free for card in machine.cards), default=None)
    for check in (
        lambda: config.data.check_world_size(world_size),
        lambda: check_memory(config, needs, range(world_size), machine.free, gpu),
    ):
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    return problems
