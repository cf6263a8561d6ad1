"""A run that starts from another one's best weights and optimizer state, on data whose tracks are partly others."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from skipwise.common.errors import UserError
from skipwise.training.checkpoint.checkpoint_index import Index, StorageError
from skipwise.training.checkpoint.checkpoints import load_tensors, open_checkpoint, start_checkpoint
from skipwise.training.checkpoint.state import Tensors
from skipwise.training.checkpoint.storage import read_rows
from skipwise.training.run.directory import RunDirectory

_BLOCK_ROWS = 1 << 18


def start_from_run(tensors: Tensors, run: RunDirectory) -> int:
    """Reads what the run named by `init_from` knows into live `tensors`, and returns how many steps it was trained.

    Dense weights and Adam's moments are taken whole. A row of the table goes with its track, and its optimizer state
    with it; rows of tracks that are new keep their first values. Each rank reads the rows of its own shards.
    """
    source = RunDirectory.open(run.config.init_from)
    path = start_checkpoint(source.path)
    index = open_checkpoint(path)
    dense = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, ShardedTensor)}
    load_tensors(dense, path, index)
    rows = run.record.num_rows, source.record.num_rows
    for name, tensor in tensors.items():
        if not isinstance(tensor, ShardedTensor):
            continue
        saved = index["tensors"].get(name, {"shape": None})
        if (rows[0], *tensor.shape[1:]) != tuple(tensor.shape) or [rows[1], *tensor.shape[1:]] != saved["shape"]:
            raise UserError(
                f"{path}: '{name}' has shape {saved['shape']}, expected {[rows[1], *tensor.shape[1:]]}: column shards "
                "with a state each cannot be taken over; start from a run with --table.sharding row_wise"
            )
        for shard in tensor.local_shards():
            _take_rows(shard.tensor, shard.metadata.shard_offsets, run, path, index, name)
    steps = [tensor for name, tensor in dense.items() if name.endswith(".step")]
    return int(steps[0]) if steps else 0


def _take_rows(shard: Tensor, offsets: list[int], run: RunDirectory, path: Path, index: Index, name: str) -> None:
    """Fills the rows of one shard, from blocks of the source's rows."""
    target_X, source_X = _matches(run, offsets[0], offsets[0] + len(shard))
    order_X = source_X.argsort()
    target_X, source_X = target_X[order_X], source_X[order_X]
    first = 0
    while first < len(source_X):
        last = int(np.searchsorted(source_X, source_X[first] + _BLOCK_ROWS))
        low, high = int(source_X[first]), int(source_X[last - 1]) + 1
        try:
            block = read_rows(path, index, name, low, high)
        except StorageError as error:
            raise UserError(f"{error}: expected a whole checkpoint; start from another run") from error
        if block.dim() > 1:
            block = block[:, offsets[1] : offsets[1] + shard.shape[1]]
        shard[target_X[first:last] - offsets[0]] = block[source_X[first:last] - low].to(shard)
        first = last


def _matches(run: RunDirectory, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, source) of the table's rows from `first` up to `last`."""
    with pq.ParquetFile(run.matches) as parquet:
        groups = [
            group
            for group in range(parquet.metadata.num_row_groups)
            if (column := parquet.metadata.row_group(group).column(0).statistics) is None
            or (column.max >= first and column.min < last)
        ]
        table = parquet.read_row_groups(groups, columns=["row", "source"])
    row_X, source_X = (table[name].to_numpy() for name in ("row", "source"))
    own_X = (row_X >= first) & (row_X < last)
    return row_X[own_X].astype(np.int64), source_X[own_X].astype(np.int64)
