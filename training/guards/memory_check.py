"""Whether the machine can hold a training, asked before any work: its memory and the disk of its run directory.

Sizes are least sizes: what they refuse would have failed. Left out: the libraries, which are loaded by then, a lookup's
buffers, and what depends on how long sessions are on average.
Shape legend: B sessions of this rank, T most positions read, P pool of negatives, U bags of the lookup.
"""

import math
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import torch

from skipwise.common.distributed import device, gather_objects, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.machine import available_memory, device_memory, free_disk
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.negatives import STRIDE
from skipwise.models.config import TableConfig
from skipwise.models.encoder import Encoder
from skipwise.models.table import column_ranks
from skipwise.training.config import RunConfig
from skipwise.training.run.directory import CHECKPOINTS

_FLOAT = 4


@dataclass(frozen=True)
class Need:
    """Memory that each of the first `holders` ranks takes, and how that came about."""

    name: str
    bytes: int
    holders: int
    arithmetic: str = ""
    of_table: bool = True
    """It grows with the table; otherwise with the batch."""
    on_device: bool = True
    """It lies on the GPU where there is one; otherwise on the host."""

    def __str__(self) -> str:
        return f"{self.name}{self.arithmetic and f' {self.arithmetic} ='} {size(self.bytes)}"


def training_bytes(config: RunConfig, tracks: int, ranks: int, longest: int) -> list[Need]:
    """What a rank of `ranks` takes to train; `longest`: most tracks of a session of the data.

    Where TorchRec's planner places the table, it is taken to be spread evenly, as row-wise.
    """
    table, holders = config.table, _holders(config.table, ranks)
    share = f" / {holders}" if holders > 1 else ""
    columns, rows = table.dim, math.ceil(tracks / holders)
    if table.sharding == "column_wise":
        columns, rows = table.dim // holders, tracks
    note = ", evenly spread" if table.sharding == "planner" and holders > 1 else ""
    numbers, text = _state(table.optimizer, columns)
    weight, state = rows * columns * _FLOAT, rows * numbers * _FLOAT
    # A column shard keeps a whole number for each row; all else is cut as the table is.
    state_share = "" if table.sharding == "column_wise" else share
    needs = [
        Need("table", weight, holders, f"{tracks:,} x {table.dim} x {_FLOAT}{share}{note}"),
        Need("its optimizer's state", state, holders, f"{tracks:,} x {text} x {_FLOAT}{state_share}"),
        Need("a copy of both for checkpoints", weight + state, holders, on_device=False),
        Need("the batches that wait", _waiting(config, tracks, ranks, longest), ranks, of_table=False, on_device=False),
        Need("a step", _step(config, tracks, ranks, longest), ranks, of_table=False),
    ]
    return [need for need in needs if need.bytes]


def checkpoint_bytes(config: RunConfig, tracks: int, ranks: int = 1) -> int:
    """One checkpoint of all ranks: the table, its state, and the dense weights with Adam's two moments."""
    holders = _holders(config.table, ranks) if config.table.sharding == "column_wise" else 1
    numbers, _ = _state(config.table.optimizer, config.table.dim // holders)
    return _FLOAT * (tracks * (config.table.dim + holders * numbers) + 3 * _dense(config))


def check_memory(
    config: RunConfig,
    needs: list[Need],
    here: range,
    host: int | None = None,
    gpu: int | None = None,
    name: str = "this machine",
) -> None:
    """Raises `UserError` where the ranks `here`, those of one machine called `name`, do not fit.

    `host`: bytes free for all of them, None if unknown; `gpu`: bytes free on the GPU of each, None for a CPU.
    """
    on_host = [need for need in needs if gpu is None or not need.on_device]
    if host is not None:
        holding = [sum(number < need.holders for number in here) for need in on_host]
        who = f"the {len(here)} ranks of {name}" if len(here) > 1 else name
        _check_room(config, on_host, holding, host, who, "machines")
    if gpu is not None:
        on_device = [need for need in needs if need.on_device]
        holding = [int(here.start < need.holders) for need in on_device]
        _check_room(config, on_device, holding, gpu, f"a GPU of {name}", "GPUs")


def check_disk(path: Path, bytes_each: int, copies: int, free: int | None = None) -> None:
    """Raises `UserError` where `copies` checkpoints do not fit beside `path`; `free`: bytes, read if not given.

    A run holds `--checkpoint.keep` and two: the best and the one being written.
    """
    free = free_disk(path) if free is None else free
    if free is None or bytes_each * copies <= free:
        return
    keep = free // bytes_each - 2
    lower = f"lower --checkpoint.keep to {keep}, or " if keep >= 1 else ""
    raise UserError(
        f"{path} needs room for {copies} checkpoints (--checkpoint.keep, the best and the next) of {size(bytes_each)}, "
        f"{size(bytes_each * copies)} in all, and its disk has {size(free)} free: "
        f"{lower}choose a --run-dir on another disk"
    )


def check_machines(config: RunConfig, tracks: int, longest: int, run_dir: Path) -> None:
    """Every machine's memory and rank 0's disk; all ranks call it together, and raise the same `UserError`.

    No rank goes on, and takes memory, before all have looked.
    """
    local_rank, local_ranks = (
        int(os.environ.get(name, default))
        for name, default in (("LOCAL_RANK", rank()), ("LOCAL_WORLD_SIZE", world_size()))
    )
    here = range(rank() - local_rank, rank() - local_rank + local_ranks)
    free = available_memory(), device_memory(device())
    sentence = None
    try:
        check_memory(config, training_bytes(config, tracks, world_size(), longest), here, *free, socket.gethostname())
        if rank() == 0:
            there = len(list((run_dir / CHECKPOINTS).glob("*/")))  # of a run that goes on
            copies = max(config.checkpoint.keep + 2 - there, 1)
            check_disk(run_dir, checkpoint_bytes(config, tracks, world_size()), copies)
    except UserError as error:
        sentence = str(error)
    if sentence := next(filter(None, gather_objects(sentence)), None):
        raise UserError(sentence)


def size(count: int) -> str:
    """Bytes as people read them, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= 0.1 * factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def _holders(table: TableConfig, ranks: int) -> int:
    """How many ranks hold a part of the table."""
    if table.sharding == "column_wise":
        return len(column_ranks(table.dim, ranks))
    return 1 if table.sharding == "table_wise" else ranks


def _state(optimizer: str, columns: int) -> tuple[int, str]:
    """Numbers of fused optimizer state for each row of `columns`, and how they come about."""
    return {
        "rowwise_adagrad": (1, "1"),
        "adagrad": (columns, f"{columns}"),
        "sgd": (0, "0"),
        "adam": (2 * columns, f"2 x {columns}"),
        "partial_rowwise_adam": (columns + 1, f"({columns} + 1)"),
    }[optimizer]


def _dense(config: RunConfig) -> int:
    """Numbers of the encoder's weights."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in Encoder(config.encoder, config.table.dim).parameters())


@dataclass(frozen=True)
class _Shape:
    """B, T, P, U of a rank's widest training batch, as `skipwise.datapipes.collate` makes it."""

    sessions: int
    positions: int
    pool: int
    bags: int

    @classmethod
    def of(cls, config: RunConfig, tracks: int, ranks: int, longest: int) -> "_Shape":
        sessions, pool = config.data.batch_size // ranks, config.data.negatives
        read = config.encoder.max_length + (config.cloze is None)
        if config.data.sampling == "per-session":
            pool += (sessions - 1) * STRIDE + longest
        bags = min(sessions * min(longest, read) + pool, tracks) + 1
        return cls(sessions, max(1, min(longest - HELD_OUT["validation"], read)), pool, bags)


def _waiting(config: RunConfig, tracks: int, ranks: int, longest: int) -> int:
    """What does not depend on the sessions' mean length of the batches read ahead, in training or evaluation."""
    shape = _Shape.of(config, tracks, ranks, longest)
    # Of each padded position its bag and its target, and whether it is skipped and masked.
    train = 18 * shape.sessions * shape.positions + 8 * shape.pool + 4 * shape.bags
    candidates = 8 * config.evaluate.batch_size // ranks * config.evaluate.candidates
    return config.data.workers * config.data.prefetch * max(train, candidates)


def _step(config: RunConfig, tracks: int, ranks: int, longest: int) -> int:
    """What is held at once at the end of forward whatever the sessions' mean length, and the dense weights thrice more.

    Rows looked up and gathered, each with its gradient; queries, keys, values and the attention's weights of every
    block, padded; and the dropout's masks.
    """
    shape, encoder, dim = _Shape.of(config, tracks, ranks, longest), config.encoder, config.table.dim
    padded = shape.sessions * shape.positions
    rows = 2 * shape.bags * dim + 2 * (padded + shape.pool) * dim
    scores = padded * shape.positions * encoder.heads
    attention = encoder.blocks * (3 * padded * dim + scores) + (scores if encoder.dropout else 0)
    width = 2 if config.train.precision == "bf16" else _FLOAT
    return _FLOAT * rows + width * attention + 4 * _FLOAT * _dense(config)


def _check_room(config: RunConfig, needs: list[Need], holding: list[int], free: int, who: str, more: str) -> None:
    """`holding`: how many times each need stands in the `free` bytes; `more`: what the table can be spread over."""
    of_table, of_batch = (
        sum(need.bytes * times for need, times in zip(needs, holding, strict=True) if need.of_table == kind)
        for kind in (True, False)
    )
    if of_table + of_batch <= free:
        return
    most = max(holding)
    terms = ", ".join(
        f"{need}{f' on {times} of them' if times < most else ''}"
        for need, times in zip(needs, holding, strict=True)
        if times
    )
    table_ways, batch_ways = _table_ways(config.table, more), "a smaller --data.batch-size or --encoder.max-length"
    ways = f"{table_ways}, or {batch_ways}"  # where either part alone may make the room
    if max(of_table, of_batch) > free:
        ways = table_ways if of_batch <= free else batch_ways if of_table <= free else f"{table_ways}, and {batch_ways}"
    raise UserError(
        f"training needs {size(of_table + of_batch)} of memory on {who} ({'each: ' if most > 1 else ''}{terms}) and "
        f"{size(free)} are free: use {ways}"
    )


def _table_ways(table: TableConfig, more: str) -> str:
    rows = table.sharding in ("row_wise", "planner")  # the others stop at some number of ranks
    ways = [f"more {more}" if rows else f"--table.sharding row_wise on more {more}"]
    if table.optimizer in ("adagrad", "adam", "partial_rowwise_adam"):
        ways.append("--table.optimizer rowwise_adagrad")
    return " or ".join([*ways, "a smaller --table.dim"])
