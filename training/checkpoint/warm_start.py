"""A run that starts from another one's best weights and optimizer state, on data with other tracks."""

from collections.abc import Callable
from functools import partial

import numpy as np
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import read_table
from skipwise.datapipes.session_files import DAMAGED
from skipwise.datapipes.signals import Signals
from skipwise.models.table import SIGNAL_TABLE, TABLE, VALUE_TABLE
from skipwise.training.checkpoint.checkpoints import load_tensors, open_checkpoint, start_checkpoint
from skipwise.training.checkpoint.saved_rows import SavedRows, read_matches
from skipwise.training.checkpoint.state import Tensors
from skipwise.training.run.directory import VALUES, RunDirectory

Matches = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""`read_matches` of a table, by its rows from the first up to the last."""


def start_from_run(tensors: Tensors, run: RunDirectory, num_rows: int = 0) -> int:
    """Reads the state of the run named by `init_from` into live `tensors`, and returns how many steps it was trained.

    Dense weights and Adam's moments are taken whole. A row of the tracks' table goes with its track, a row of the
    signals' table or of the tracks' values with its column and value, each with its optimizer state; rows of what is
    new keep their first values. Each rank reads the rows of its own shards. `num_rows`: of the table, where it has
    spare ones behind the run's tracks.
    """
    source = RunDirectory.open(run.config.init_from)
    path = start_checkpoint(source.path)
    index = open_checkpoint(path)
    signals, signals_before = (Signals.of(each.config.data.inputs, each.record.contexts) for each in (run, source))
    tables: dict[str, tuple[int, int, Matches]] = {
        TABLE: (num_rows or run.record.num_rows, source.table_rows, partial(read_matches, run.matches)),
        VALUE_TABLE: _value_rows(run, source),
        SIGNAL_TABLE: (signals.num_rows, signals_before.num_rows, partial(_common_rows, signals, signals_before)),
    }
    sharded = {
        name: table
        for name, tensor in tensors.items()
        for table in tables
        if isinstance(tensor, ShardedTensor) and f"embedding_bags.{table}." in name
    }
    whole = {name: tensor for name, tensor in tensors.items() if name not in sharded}
    load_tensors(whole, path, index)
    for name, table in sharded.items():
        tensor = tensors[name]
        assert isinstance(tensor, ShardedTensor)
        num_rows, num_source, matches = tables[table]
        shape = [num_source, *tensor.shape[1:]]
        if index.shape_of(name) != shape or tensor.shape[0] != num_rows:
            raise UserError(
                f"{path}: '{name}' has shape {index.shape_of(name)}, expected {shape}: column shards with a state each "
                "cannot be taken over; start from a run with --table.sharding row_wise"
            )
        rows = SavedRows(path, index, name, "start from another run")
        for shard in tensor.local_shards():
            first, *columns = shard.metadata.shard_offsets
            target_X, source_X = matches(first, first + len(shard.tensor))
            for where, block in rows.blocks(source_X):
                if columns:
                    block = block[:, columns[0] : columns[0] + shard.tensor.shape[1]]
                shard.tensor[target_X[where] - first] = block.to(shard.tensor)
    steps = [tensor for name, tensor in whole.items() if name.endswith(".step")]
    return int(steps[0]) if steps else 0


def _common_rows(signals: Signals, before: Signals, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """`read_matches` for the rows of signals."""
    row_X, source_X = signals.common_rows(before)
    chosen_X = (row_X >= first) & (row_X < last)
    return row_X[chosen_X], source_X[chosen_X]


def _value_rows(run: RunDirectory, source: RunDirectory) -> tuple[int, int, Matches]:
    """The rows of the values' tables of both runs, and which belong together, by column and value."""
    if not run.config.data.features:
        return 0, 0, lambda first, last: (np.zeros(0, np.int64), np.zeros(0, np.int64))
    try:
        here, there = (read_table(each.value_rows) for each in (run, source))
    except DAMAGED as error:
        raise UserError(f"{source.path} cannot be started from ({brief(error)}): restore its {VALUES}") from error
    both = here.join(there.rename_columns(["column", "value", "source"]), ["column", "value"], join_type="inner")
    row_Y, source_Y = (both[name].to_numpy().astype(np.int64) for name in ("row", "source"))
    order_Y = source_Y.argsort(kind="stable")
    row_Y, source_Y = row_Y[order_Y], source_Y[order_Y]

    def matches(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        chosen_Y = (row_Y >= first) & (row_Y < last)
        return row_Y[chosen_Y], source_Y[chosen_Y]

    return run.record.num_values, source.record.num_values, matches
