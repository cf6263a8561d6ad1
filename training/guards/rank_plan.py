"""What many ranks on many nodes take and send in a step, worked out from a config. Imports neither torch nor TorchRec.

Legend: B bags of a rank's batch, D width of a track's row, W ranks, L ranks of a node, N nodes. A row-wise lookup sums
what all ranks hold of each bag, and a bag has one row: so each rank sends B rows, mostly zeros, to each other rank, and
as many gradients back. A grid does so among the ranks of a node, for its columns, and then exchanges whole rows.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

from skipwise.training.config import RunConfig
from skipwise.training.guards.memory_needs import bags_of, checkpoint_bytes, dense_weights, size, training_needs

_FLOAT = _ID = _LENGTH = 4
_INSIDE_GB_S, _BETWEEN_GB_S = 200.0, 25.0
"""Rates that are assumed where none are given."""


@dataclass(frozen=True)
class Ranks:
    """Where ranks run, and the rates that were measured there; GB/s are of one rank, in one direction."""

    world_size: int
    node_ranks: int
    gpu_gb: float
    inside_gb_s: float | None = None
    """Within a node."""
    between_gb_s: float | None = None
    """Between nodes."""
    step_ms: float | None = None
    """A step on one rank alone."""

    @property
    def num_nodes(self) -> int:
        """Nodes, rounded up."""
        return -(-self.world_size // self.node_ranks)


@dataclass(frozen=True)
class Sent:
    """Bytes that a rank sends in a step, to ranks of its node and to those of other nodes."""

    what: str
    inside: float
    between: float


def plan_lines(config: RunConfig, num_tracks: int, ranks: Ranks) -> tuple[list[str], list[str]]:
    """Memory, traffic, checkpoints and time of a step, for row-wise and for a grid where there are several nodes; where
    that cannot split the rows, for the next wider ones.

    Also returns a problem, with its remedy, where none of these fits the devices.
    """
    lines, devices = [], []
    for sharding in ("row_wise", "grid") if ranks.num_nodes > 1 else ("row_wise",):
        split = replace(config, table=replace(config.table, sharding=sharding))
        try:
            lines += _plan(split, num_tracks, ranks)
            devices.append(device_bytes(split, num_tracks, ranks))
        except ValueError as error:
            if wider := _wider(split, ranks):
                lines.append(
                    f"a grid over {ranks.num_nodes} nodes needs rows of a multiple of {4 * ranks.num_nodes} numbers, "
                    f"not {split.row_table.dim}: it would be with --dimension {wider.table.dim}"
                )
                lines += _plan(wider, num_tracks, ranks)
            else:
                lines.append(f"without a grid: {error}")
    if min(devices) <= ranks.gpu_gb * 1e9:
        return lines, []
    return lines, [
        f"{ranks.world_size} ranks need {size(min(devices))} of memory on each device, of {ranks.gpu_gb:g} GB: use "
        "more --ranks, --precision fp16, or a smaller --dimension or --batch-size"
    ]


def _wider(config: RunConfig, ranks: Ranks) -> RunConfig | None:
    """The config with the next wider rows that a grid can split over these nodes; None where none are."""
    heads = config.encoder.heads
    for dim in range(config.table.dim + heads, config.table.dim + 4 * ranks.num_nodes * heads + 1, heads):
        with suppress(ValueError):
            wider = replace(config, table=replace(config.table, dim=dim))
            wider.row_table.blocks(ranks.world_size, ranks.num_nodes)
            return wider
    return None


def device_bytes(config: RunConfig, num_tracks: int, ranks: Ranks) -> int:
    """The least memory that training takes on a rank's device, with the buffers of a lookup."""
    needs = training_needs(config, num_tracks, config.encoder.max_length, ranks.world_size, num_nodes=ranks.num_nodes)
    return sum(need.bytes for need in needs if need.on_device) + lookup_bytes(config, num_tracks, ranks)


def lookup_bytes(config: RunConfig, num_tracks: int, ranks: Ranks) -> int:
    """The buffers of a lookup on each rank: partial rows of the bags of all ranks, and all their gradients."""
    _, column_blocks = config.row_table.blocks(ranks.world_size, ranks.num_nodes)
    bags = bags_of(config, num_tracks, config.encoder.max_length, ranks.world_size)
    return 2 * ranks.world_size * bags * config.row_table.dim // column_blocks * _FLOAT


def traffic(config: RunConfig, num_tracks: int, ranks: Ranks) -> list[Sent]:
    """What a rank sends in a step. A sum over ranks is counted as if each rank sent its part to each other one."""
    table, world_size, local = config.row_table, ranks.world_size, min(ranks.node_ranks, ranks.world_size)
    _, nodes = table.blocks(world_size, ranks.num_nodes)
    bags = bags_of(config, num_tracks, config.encoder.max_length, world_size)
    others, apart = world_size - 1, world_size - local
    width = 2 if table.exchange == "half" else _FLOAT
    row = bags * table.dim * width
    # Every node of a grid needs all ids, for its columns.
    ids = _LENGTH * bags, _ID * bags * nodes / world_size
    rows: list[tuple[float, float]] = [((local - 1) * row, apart * row)]
    if nodes > 1:
        rows = [((local - 1) * row, 0), (0, (nodes - 1) * row / nodes)]
    inside, between = (sum(each[place] for each in rows) for place in (0, 1))
    dense = 2 * _FLOAT * dense_weights(config) / world_size
    return [
        Sent("ids and lengths of bags", (local - 1) * sum(ids), apart * sum(ids)),
        Sent("rows", inside, between),
        Sent("gradients of rows", inside, between),
        Sent("sums of dense gradients", dense * (others - apart), dense * apart),
    ]


def _plan(config: RunConfig, num_tracks: int, ranks: Ranks) -> list[str]:
    table, world_size = config.row_table, ranks.world_size
    needs = training_needs(config, num_tracks, config.encoder.max_length, world_size, num_nodes=ranks.num_nodes)
    lookup = lookup_bytes(config, num_tracks, ranks)
    on_device = device_bytes(config, num_tracks, ranks)
    fits = "which fits" if on_device <= ranks.gpu_gb * 1e9 else "which does not fit"
    whole = checkpoint_bytes(config, num_tracks, world_size, num_nodes=ranks.num_nodes)
    sent = traffic(config, num_tracks, ranks)
    inside, between = (sum(getattr(each, place) for each in sent) for place in ("inside", "between"))
    rates = ranks.inside_gb_s or _INSIDE_GB_S, ranks.between_gb_s or _BETWEEN_GB_S
    times = inside / rates[0] / 1e6, between / rates[1] / 1e6
    time = (
        f"communication of a step: {sum(times):.1f} ms ({times[0]:.1f} within the node, {times[1]:.1f} between nodes)"
    )
    alone = ranks.step_ms
    total = (
        f"step: {alone + sum(times):.1f} ms with the {alone:g} given for a rank alone, nothing overlapped"
        if alone
        else "step: add what `python -m skipwise.benchmarks step` measures on one rank at its batch, by --step-ms"
    )
    return [
        f"--table.sharding {table.sharding}: {world_size} ranks, {ranks.node_ranks} on a node, {num_tracks:,} tracks x "
        f"{table.dim} {table.precision}",
        f"  on each device at least {size(on_device)}, {fits} {ranks.gpu_gb:g} GB",
        *(f"    {need}" for need in needs if need.on_device),
        f"    buffers of a lookup = {size(lookup)}",
        "  on each host for each rank",
        *(f"    {need}" for need in needs if not need.on_device),
        f"  a rank sends {size(int(inside))} within its node and {size(int(between))} to other nodes in a step",
        *(f"    {each.what}: {size(int(each.inside))}, {size(int(each.between))}" for each in sent),
        f"  {time}",
        f"    rates of a rank: {_rate(rates[0], ranks.inside_gb_s, '--inside')} within its node, "
        f"{_rate(rates[1], ranks.between_gb_s, '--between')} to other nodes",
        f"  {total}",
        f"  a checkpoint: {size(whole)}, of which a rank writes {size(whole // world_size)}; a run holds "
        f"{config.checkpoint.keep + 2}",
    ]


def _rate(gb_s: float, given: float | None, flag: str) -> str:
    return f"{gb_s:g} GB/s ({'given' if given else f'assumed, not measured: {flag}'})"
