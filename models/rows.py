"""Each rank's block of whole rows, whatever the sharding: what evaluation scores and export writes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from skipwise.models.table import row_block


@dataclass(frozen=True)
class _Piece:
    """Where a shard lies in the table and who holds it."""

    row: int
    column: int
    rows: int
    columns: int
    holder: int


def own_rows(weight: Tensor | ShardedTensor, rank: int, ranks: int) -> tuple[int, Tensor]:
    """(first row, [R, D]) of this rank's block of ceil(rows / ranks) rows, from the table's `state_dict()` entry.

    Row-wise shards are returned as they are, without a copy. Other layouts are exchanged once: every rank ends with
    its own block, none with the whole table.
    """
    rows, dim = weight.shape
    first, last = row_block(rows, rank, ranks)
    if not isinstance(weight, ShardedTensor):
        return first, weight.detach()[first:last]
    layout = [
        _Piece(*shard.shard_offsets, *shard.shard_sizes, shard.placement.rank())
        for shard in weight.metadata().shards_metadata
    ]
    local = {tuple(shard.metadata.shard_offsets): shard.tensor.detach() for shard in weight.local_shards()}
    if all(
        piece.columns == dim and (piece.row, piece.row + piece.rows) == row_block(rows, piece.holder, ranks)
        for piece in layout
        if piece.rows
    ):
        return first, local[first, 0] if last > first else torch.empty(0, dim)
    return first, _exchange(layout, local, rows, dim, rank, ranks)


def _exchange(
    layout: list[_Piece], local: dict[tuple[int, int], Tensor], rows: int, dim: int, rank: int, ranks: int
) -> Tensor:
    """One all-to-all in which every holder sends each rank the part of its pieces that lies in that rank's block."""
    mine = [piece for piece in layout if piece.holder == rank]
    outgoing = [
        torch.cat(
            [
                local[piece.row, piece.column][low - piece.row : high - piece.row].reshape(-1)
                for piece, low, high in _overlaps(mine, rows, other, ranks)
            ]
            or [torch.empty(0)]
        )
        for other in range(ranks)
    ]
    incoming = [
        sum(
            (high - low) * piece.columns
            for piece, low, high in _overlaps([piece for piece in layout if piece.holder == other], rows, rank, ranks)
        )
        for other in range(ranks)
    ]
    device = outgoing[rank].device
    received = torch.empty(sum(incoming), device=device)
    dist.all_to_all_single(received, torch.cat(outgoing), incoming, [len(part) for part in outgoing])
    first, last = row_block(rows, rank, ranks)
    block = torch.empty(last - first, dim, device=device)
    offset = 0
    for other in range(ranks):
        for piece, low, high in _overlaps([piece for piece in layout if piece.holder == other], rows, rank, ranks):
            size = (high - low) * piece.columns
            part = received[offset : offset + size].view(high - low, piece.columns)
            block[low - first : high - first, piece.column : piece.column + piece.columns] = part
            offset += size
    return block


def _overlaps(pieces: list[_Piece], rows: int, rank: int, ranks: int) -> Iterator[tuple[_Piece, int, int]]:
    """Each piece with the first and last row that it shares with the block of `rank`."""
    first, last = row_block(rows, rank, ranks)
    for piece in pieces:
        low, high = max(first, piece.row), min(last, piece.row + piece.rows)
        if low < high:
            yield piece, low, high
