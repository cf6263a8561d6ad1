"""The memory and disk that a training takes, worked out from its config. Imports neither torch nor TorchRec.

Sizes are lower bounds: what they refuse would have failed. Left out: the libraries, the buffers of a lookup, and what
depends on the mean length of sessions. Only the bags of a step are the most that there may be: several ranks on CPUs
leave out empty ones.
"""

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


def training_needs(
    config: RunConfig,
    num_tracks: int,
    longest: int,
    world_size: int,
    num_signals: int = 0,
    num_values: int = 0,
    num_nodes: int = 1,
) -> list[Need]:
    """What each of `world_size` ranks takes to train; `longest`: tracks of the longest session; `num_signals`,
    `num_values`: rows of the tables of signals and of the tracks' values.

    A table placed by TorchRec's planner is taken to be spread evenly, as row-wise.
    """
    table = config.row_table
    row_blocks, column_blocks = table.blocks(world_size, num_nodes)
    holders = row_blocks * column_blocks
    share, state_share = (f" / {count}" if count > 1 else "" for count in (holders, row_blocks))
    columns, num_rows = table.dim // column_blocks, -(-num_tracks // row_blocks)
    note = ", evenly spread" if table.sharding == "planner" and holders > 1 else ""
    numbers, text = _optimizer_numbers(table.optimizer, columns)
    weight, state = num_rows * columns * table.row_bytes, num_rows * numbers * _FLOAT
    batch, step = _batch_and_step_bytes(config, num_tracks, longest, world_size)
    candidates = 8 * config.evaluate.batch_size // world_size * config.evaluate.candidates
    queued = config.data.workers * config.data.prefetch * max(batch, candidates)
    of_signals, text_of_signals = _table_bytes(config.table, num_signals)
    of_values, text_of_values = _table_bytes(table, num_values)
    needs = [
        Need("table", weight, holders, f"{num_tracks:,} x {table.dim} x {table.row_bytes}{share}{note}"),
        # A column block keeps a whole number for each row.
        Need("its optimizer's state", state, holders, f"{num_tracks:,} x {text} x {_FLOAT}{state_share}"),
        Need("a copy of both for checkpoints", weight + state, holders, on_device=False),
        Need("the signals' table and its state", of_signals, 1, text_of_signals),
        Need("a copy of these", of_signals, 1, on_device=False),
        Need("the values' table and its state", of_values // holders, holders, f"{text_of_values}{share}"),
        Need("a copy of both for checkpoints, of the values", of_values // holders, holders, on_device=False),
        Need("the tracks' rows with their features, to rank", bool(config.data.features) * weight, holders),
        Need("the prefetched batches", queued, world_size, of_table=False, on_device=False),
        Need("a step", step, world_size, of_table=False),
    ]
    return [need for need in needs if need.bytes]


def checkpoint_bytes(
    config: RunConfig,
    num_tracks: int,
    world_size: int = 1,
    num_signals: int = 0,
    num_values: int = 0,
    num_nodes: int = 1,
) -> int:
    """One checkpoint of all ranks: all tables, their state, and the dense weights with Adam's two moments and
    their mean, if there is one."""
    table = config.row_table
    _, column_blocks = table.blocks(world_size, num_nodes)
    numbers, _ = _optimizer_numbers(table.optimizer, table.dim // column_blocks)
    dense = dense_weights(config)
    of_signals, of_values = _table_bytes(config.table, num_signals)[0], _table_bytes(table, num_values)[0]
    copies = 4 if config.optimizer.average else 3
    rows = num_tracks * (table.dim * table.row_bytes + column_blocks * numbers * _FLOAT)
    return rows + _FLOAT * copies * dense + of_signals + of_values


def check_memory(
    config: RunConfig,
    needs: list[Need],
    here: range,
    host: int | None = None,
    gpu: int | None = None,
    process: int | None = None,
    name: str = "this machine",
) -> None:
    """Raises `UserError` where the ranks `here`, those of one machine called `name`, do not fit.

    `host`: bytes free for all of them, None if unknown; `gpu`: bytes free on the GPU of each, None for a CPU;
    `process`: bytes that each may still take by its own limit, None without one.
    """
    if host is not None:
        who = f"the {len(here)} ranks of {name}" if len(here) > 1 else name
        on_host = {n: sum(number < n.holders for number in here) for n in needs if gpu is None or not n.on_device}
        _check_room(config.table, on_host, host, who, "machines")
    if gpu is not None:
        on_device = {need: int(here.start < need.holders) for need in needs if need.on_device}
        _check_room(config.table, on_device, gpu, f"a GPU of {name}", "GPUs")

    if process is not None:
        on_host = {n: int(here.start < n.holders) for n in needs if gpu is None or not n.on_device}
        limit = " by its limit (ulimit -v or -d)"
        _check_room(config.table, on_host, process, f"a process of {name}", "ranks", limit)


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


def dense_weights(config: RunConfig) -> int:
    """Returns how many numbers the encoder's weights are."""
    data, keep_dim = config.data, config.loss.keep_width
    return config.encoder.num_weights(config.table.dim, keep_dim, bool(data.inputs), data.profile)


def _table_bytes(table: TableConfig, num_rows: int) -> tuple[int, str]:
    """Bytes of a table of whole rows beside the tracks' and of its optimizer's state, and their arithmetic."""
    numbers, text = _optimizer_numbers(table.optimizer, table.dim)
    return num_rows * (table.dim + numbers) * _FLOAT, f"{num_rows:,} x ({table.dim} + {text}) x {_FLOAT}"


def bags_of(config: RunConfig, num_tracks: int, longest: int, world_size: int) -> int:
    """Returns the bags of a rank's training batch, each of one row or none."""
    sessions, pool, read = _batch_sizes(config, num_tracks, longest, world_size)
    return min(sessions * (min(longest, read) + config.data.profile) + pool, num_tracks) + 1


def _batch_sizes(config: RunConfig, num_tracks: int, longest: int, world_size: int) -> tuple[int, int, int]:
    """Sessions of a rank's batch, negatives that it draws, and the most tracks of a session that it reads."""
    data = config.data
    sessions, pool = data.batch_size // world_size, min(data.negatives, num_tracks)
    if data.sampling == "per-session":
        pool += (sessions - 1) * STRIDE + longest
    if config.loss.in_batch:
        pool = -(-pool // world_size)  # of the shared pool, each rank looks up its part
    return sessions, pool, config.encoder.max_length + (config.cloze is None)


def _batch_and_step_bytes(config: RunConfig, num_tracks: int, longest: int, world_size: int) -> tuple[int, int]:
    """Bytes of a rank's largest training batch, as `skipwise.datapipes.collate` makes it, and of a step on it.

    A step holds rows looked up and gathered, with in-batch negatives those of all ranks too, each with its gradient;
    what every block keeps, such as queries, keys, values and the attention's weights, padded; the dropout masks; and
    the dense weights with gradient and moments, and with their mean and a copy where validation uses it.
    """
    data, encoder, dim = config.data, config.encoder, config.table.dim
    sessions, pool, read = _batch_sizes(config, num_tracks, longest, world_size)
    positions = max(1, min(longest - HELD_OUT["validation"], read))
    bags = bags_of(config, num_tracks, longest, world_size)
    padded = sessions * positions
    # Each padded position's bag, target, flags and signals; the pool; the bags.
    profiles = sessions * data.profile
    batch = (18 + 8 * len(data.inputs)) * padded + 8 * (pool + profiles) + 4 * bags
    rows = 2 * bags * dim + 2 * (padded + pool + profiles) * dim
    if config.loss.in_batch and world_size > 1:
        rows += 2 * world_size * bags * dim
    blocks = encoder.num_activations(sessions, positions + bool(data.profile), dim)
    copies = 6 if config.optimizer.average else 4
    width = 2 if config.train.precision == "bf16" else _FLOAT
    return batch, _FLOAT * rows + width * blocks + copies * _FLOAT * dense_weights(config)


def _check_room(table: TableConfig, times: dict[Need, int], free: int, who: str, more: str, limit: str = "") -> None:
    """`times`: how often each need is met from the `free` bytes; `more`: what the table can be spread over; `limit`:
    what else than the machine's memory says what is free."""
    of_table = sum(need.bytes * count for need, count in times.items() if need.of_table)
    of_batch = sum(need.bytes * count for need, count in times.items() if not need.of_table)
    if of_table + of_batch <= free:
        return
    most = max(times.values())
    terms = ", ".join(
        f"{need}{f' on {count} of them' if count < most else ''}" for need, count in times.items() if count
    )
    spreads = table.sharding in ("row_wise", "grid", "planner")  # the others stop at some number of ranks
    for_table = f"more {more}" if spreads else f"--table.sharding row_wise on more {more}"
    if table.optimizer in ("adagrad", "adam", "partial_rowwise_adam"):
        for_table += " or --table.optimizer rowwise_adagrad"
    if table.precision == "fp32":
        for_table += " or --table.precision fp16"
    for_table += " or a smaller --table.dim"
    for_batch = "a smaller --data.batch-size or --encoder.max-length"
    remedies = f"{for_table}, or {for_batch}"  # where reducing either part alone may be enough
    if of_batch > free:
        remedies = for_batch if of_table <= free else f"{for_table}, and {for_batch}"
    elif of_table > free:
        remedies = for_table
    raise UserError(
        f"training needs {size(of_table + of_batch)} of memory on {who} ({'each: ' if most > 1 else ''}{terms}) and "
        f"{size(free)} are free{limit}: {'raise that, or ' if limit else ''}use {remedies}"
    )
