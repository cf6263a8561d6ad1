"""Each rank's block of whole rows under any sharding, which evaluation scores and export writes."""

import itertools
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from skipwise.models.config import row_block
from skipwise.models.table import local_shards


@dataclass(frozen=True)
class _Piece:
    """A shard's place in the table, and the rank that holds it."""

    row: int
    column: int
    rows: int
    columns: int
    holder: int


def own_rows(weight: Tensor | ShardedTensor, rank: int, world_size: int) -> tuple[int, Tensor]:
    """(first row, [R, D]) of this rank's block of ceil(num_rows / world_size) rows, from the table's `state_dict()`.

    Row-wise shards are returned without a copy. Other layouts are exchanged once: every rank ends with its own block,
    none with the whole table.
    """
    num_rows, dim = weight.shape
    first, last = row_block(num_rows, rank, world_size)
    if not isinstance(weight, ShardedTensor):
        return first, weight.detach()[first:last]
    layout = []
    for shard in weight.metadata().shards_metadata:
        (row, column), (rows, columns) = shard.shard_offsets, shard.shard_sizes
        holder: int = shard.placement.rank()  # type: ignore[union-attr, assignment]  # never None in a tensor's shard
        layout.append(_Piece(row, column, rows, columns, holder))
    local = {(piece.row, piece.column): piece.tensor.detach() for piece in local_shards(weight)}
    if all(
        piece.columns == dim and (piece.row, piece.row + piece.rows) == row_block(num_rows, piece.holder, world_size)
        for piece in layout
        if piece.rows
    ):
        return first, local[first, 0] if last > first else torch.empty(0, dim)
    blocks = [row_block(num_rows, other, world_size) for other in range(world_size)]
    return first, _exchange(layout, local, blocks, dim, rank)


def _exchange(
    layout: list[_Piece], local: dict[tuple[int, int], Tensor], blocks: list[tuple[int, int]], dim: int, rank: int
) -> Tensor:
    """One all-to-all in which every holder sends each rank the part of its pieces that is in that rank's block."""
    outgoing = [
        torch.cat(
            [
                local[piece.row, piece.column][low - piece.row : high - piece.row].reshape(-1)
                for piece, low, high in _overlaps(layout, rank, block)
            ]
            or [torch.empty(0)]
        )
        for block in blocks
    ]
    first, last = blocks[rank]
    incoming = [_overlaps(layout, holder, blocks[rank]) for holder in range(len(blocks))]
    sizes = [sum((high - low) * piece.columns for piece, low, high in parts) for parts in incoming]
    received = torch.empty(sum(sizes), device=outgoing[rank].device)
    dist.all_to_all_single(received, torch.cat(outgoing), sizes, [len(part) for part in outgoing])
    block = torch.empty(last - first, dim, device=received.device)
    offset = 0
    for piece, low, high in itertools.chain(*incoming):
        size = (high - low) * piece.columns
        part = received[offset : offset + size].view(high - low, piece.columns)
        block[low - first : high - first, piece.column : piece.column + piece.columns] = part
        offset += size
    return block


def _overlaps(layout: list[_Piece], holder: int, block: tuple[int, int]) -> list[tuple[_Piece, int, int]]:
    """Each piece of `holder` that shares rows with `block`, with the first row and the row after the last."""
    shared = [
        (piece, max(block[0], piece.row), min(block[1], piece.row + piece.rows))
        for piece in layout
        if piece.holder == holder
    ]
    return [(piece, low, high) for piece, low, high in shared if low < high]
