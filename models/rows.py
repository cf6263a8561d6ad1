"""Each rank's block of whole rows under any sharding, which evaluation scores and export writes."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from skipwise.common.distributed import device
from skipwise.models.config import row_block
from skipwise.models.table import local_shards


def own_rows(weight: Tensor | ShardedTensor, rank: int, world_size: int) -> tuple[int, Tensor]:
    """(first row, [R, D]) of this rank's block of ceil(num_rows / world_size) rows, from the table's `state_dict()`.

    Row-wise shards are returned without a copy. Other layouts are exchanged once: every rank ends with its own block,
    none with the whole table.
    """
    num_rows, dim = weight.shape
    blocks = [row_block(num_rows, number, world_size) for number in range(world_size)]
    first, last = blocks[rank]
    if not isinstance(weight, ShardedTensor):
        return first, weight.detach()[first:last]
    local = {(shard.row, shard.column): shard.tensor.detach() for shard in local_shards(weight)}
    layout: list[tuple[int, list[int], list[int]]] = [
        (shard.placement.rank(), shard.shard_offsets, shard.shard_sizes)  # type: ignore[union-attr, misc]  # never None
        for shard in weight.metadata().shards_metadata
        if shard.shard_sizes[0]
    ]
    if all(columns == dim and (row, row + rows) == blocks[holder] for holder, (row, _), (rows, columns) in layout):
        return first, local[first, 0] if last > first else torch.empty(0, dim, dtype=weight.dtype, device=device())

    block, transfers, arrivals = torch.empty(last - first, dim, dtype=weight.dtype, device=device()), [], []
    for holder, (row, column), (rows, columns) in layout:
        for other, (start, end) in enumerate(blocks):
            low, high = max(start, row), min(end, row + rows)
            if low >= high or rank not in (holder, other):
                continue
            place = block[low - first : high - first, column : column + columns] if other == rank else None
            piece = local[row, column][low - row : high - row] if holder == rank else None
            if place is not None and piece is not None:
                place.copy_(piece)
            elif piece is not None:
                transfers.append(dist.P2POp(dist.isend, piece.contiguous(), other))
            elif place is not None:
                arrivals.append((place, torch.empty_like(place, memory_format=torch.contiguous_format)))
                transfers.append(dist.P2POp(dist.irecv, arrivals[-1][1], holder))
    for work in dist.batch_isend_irecv(transfers) if transfers else ():
        work.wait()
    for place, part in arrivals:
        place.copy_(part)
    return first, block
