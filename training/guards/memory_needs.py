"""The memory and disk that a training takes, worked out from its config. Imports neither torch nor TorchRec.

Sizes are lower bounds: what they refuse would have failed. Left out: the libraries, the buffers of a lookup, and what
depends on the mean length of sessions.
Shape legend: B sessions of this rank, T most positions read, P pool of negatives, U bags of the lookup.
"""

import math
from dataclasses import dataclass

from skipwise.common.errors import UserError
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.negatives import STRIDE
from skipwise.models.config import TableConfig
from skipwise.training.config import RunConfig

_FLOAT = 4


@dataclass(frozen=True)
class Need:
    """Memory that each of the first `holders` ranks takes, and how that was computed."""

    name: str
    bytes: int
    holders: int
    arithmetic: str = ""
    of_table: bool = True
    """It grows with the table; otherwise with the batch."""
    on_device: bool = True
    """It is allocated on the GPU where there is one; otherwise on the host."""

    def __str__(self) -> str:
        return f"{self.name}{self.arithmetic and f' {self.arithmetic} ='} {size(self.bytes)}"


def training_needs(config: RunConfig, num_tracks: int, longest: int, world_size: int) -> list[Need]:
    """What each of `world_size` ranks takes to train; `longest`: tracks of the longest session.

    A table placed by TorchRec's planner is taken to be spread evenly, as row-wise.
    """
    table, holders = config.table, config.table.num_holders(world_size)
    share = f" / {holders}" if holders > 1 else ""
    columns, num_rows = table.dim, math.ceil(num_tracks / holders)
    if table.sharding == "column_wise":
        columns, num_rows = table.dim // holders, num_tracks
    note = ", evenly spread" if table.sharding == "planner" and holders > 1 else ""
    numbers, text = _optimizer_numbers(table.optimizer, columns)
    weight, state = num_rows * columns * _FLOAT, num_rows * numbers * _FLOAT
    # A column shard keeps a whole number for each row; all else is cut as the table is.
    state_share = "" if table.sharding == "column_wise" else share
    shape = _BatchShape.of(config, num_tracks, longest, world_size)
    candidates = 8 * config.evaluate.batch_size // world_size * config.evaluate.candidates
    queued = config.data.workers * config.data.prefetch * max(shape.train_bytes, candidates)
    needs = [
        Need("table", weight, holders, f"{num_tracks:,} x {table.dim} x {_FLOAT}{share}{note}"),
        Need("its optimizer's state", state, holders, f"{num_tracks:,} x {text} x {_FLOAT}{state_share}"),
        Need("a copy of both for checkpoints", weight + state, holders, on_device=False),
        Need("the prefetched batches", queued, world_size, of_table=False, on_device=False),
        Need("a step", _step_bytes(config, shape), world_size, of_table=False),
    ]
    return [need for need in needs if need.bytes]


def checkpoint_bytes(config: RunConfig, num_tracks: int, world_size: int = 1) -> int:
    """One checkpoint of all ranks: the table, its state, and the dense weights with Adam's two moments."""
    holders = config.table.num_holders(world_size) if config.table.sharding == "column_wise" else 1
    numbers, _ = _optimizer_numbers(config.table.optimizer, config.table.dim // holders)
    dense = config.encoder.num_weights(config.table.dim)
    return _FLOAT * (num_tracks * (config.table.dim + holders * numbers) + 3 * dense)


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
        times = [sum(number < need.holders for number in here) for need in on_host]
        who = f"the {len(here)} ranks of {name}" if len(here) > 1 else name
        _check_room(config, on_host, times, host, who, "machines")
    if gpu is not None:
        on_device = [need for need in needs if need.on_device]
        times = [int(here.start < need.holders) for need in on_device]
        _check_room(config, on_device, times, gpu, f"a GPU of {name}", "GPUs")


def size(count: int) -> str:
    """Bytes with a unit, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= 0.1 * factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def _optimizer_numbers(optimizer: str, columns: int) -> tuple[int, str]:
    """Numbers of fused optimizer state for each row of `columns`, and the same as text."""
    return {
        "rowwise_adagrad": (1, "1"),
        "adagrad": (columns, f"{columns}"),
        "sgd": (0, "0"),
        "adam": (2 * columns, f"2 x {columns}"),
        "partial_rowwise_adam": (columns + 1, f"({columns} + 1)"),
    }[optimizer]


@dataclass(frozen=True)
class _BatchShape:
    """B, T, P, U of a rank's largest training batch, as `skipwise.datapipes.collate` makes it."""

    sessions: int
    positions: int
    pool: int
    bags: int

    @classmethod
    def of(cls, config: RunConfig, num_tracks: int, longest: int, world_size: int) -> "_BatchShape":
        sessions, pool = config.data.batch_size // world_size, config.data.negatives
        read = config.encoder.max_length + (config.cloze is None)
        if config.data.sampling == "per-session":
            pool += (sessions - 1) * STRIDE + longest
        bags = min(sessions * min(longest, read) + pool, num_tracks) + 1
        return cls(sessions, max(1, min(longest - HELD_OUT["validation"], read)), pool, bags)

    @property
    def train_bytes(self) -> int:
        """What does not depend on the mean length: each padded position's bag, target and flags; the pool; the bags."""
        return 18 * self.sessions * self.positions + 8 * self.pool + 4 * self.bags


def _step_bytes(config: RunConfig, shape: _BatchShape) -> int:
    """What is held at the end of forward, whatever the mean length, and the dense weights with gradient and moments.

    Rows looked up and gathered, each with its gradient; queries, keys, values and the attention's weights of every
    block, padded; and the dropout masks.
    """
    encoder, dim = config.encoder, config.table.dim
    padded = shape.sessions * shape.positions
    rows = 2 * shape.bags * dim + 2 * (padded + shape.pool) * dim
    scores = padded * shape.positions * encoder.heads
    attention = encoder.blocks * (3 * padded * dim + scores) + (scores if encoder.dropout else 0)
    width = 2 if config.train.precision == "bf16" else _FLOAT
    return _FLOAT * rows + width * attention + 4 * _FLOAT * encoder.num_weights(dim)


def _check_room(config: RunConfig, needs: list[Need], times: list[int], free: int, who: str, more: str) -> None:
    """`times`: how often each need is met from the `free` bytes; `more`: what the table can be spread over."""
    of_table, of_batch = (
        sum(need.bytes * count for need, count in zip(needs, times, strict=True) if need.of_table == kind)
        for kind in (True, False)
    )
    if of_table + of_batch <= free:
        return
    most = max(times)
    terms = ", ".join(
        f"{need}{f' on {count} of them' if count < most else ''}"
        for need, count in zip(needs, times, strict=True)
        if count
    )
    for_table, for_batch = _table_remedies(config.table, more), "a smaller --data.batch-size or --encoder.max-length"
    remedies = f"{for_table}, or {for_batch}"  # where reducing either part alone may be enough
    if of_batch > free:
        remedies = for_batch if of_table <= free else f"{for_table}, and {for_batch}"
    elif of_table > free:
        remedies = for_table
    raise UserError(
        f"training needs {size(of_table + of_batch)} of memory on {who} ({'each: ' if most > 1 else ''}{terms}) and "
        f"{size(free)} are free: use {remedies}"
    )


def _table_remedies(table: TableConfig, more: str) -> str:
    spreads = table.sharding in ("row_wise", "planner")  # the others stop at some number of ranks
    remedies = [f"more {more}" if spreads else f"--table.sharding row_wise on more {more}"]
    if table.optimizer in ("adagrad", "adam", "partial_rowwise_adam"):
        remedies.append("--table.optimizer rowwise_adagrad")
    return " or ".join([*remedies, "a smaller --table.dim"])
