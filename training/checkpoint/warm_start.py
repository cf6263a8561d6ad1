"""A run that starts from another one's best weights and optimizer state, on data with other tracks."""

from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from skipwise.common.errors import UserError
from skipwise.models.table import TABLE
from skipwise.training.checkpoint.checkpoints import load_tensors, open_checkpoint, start_checkpoint
from skipwise.training.checkpoint.saved_rows import SavedRows, read_matches
from skipwise.training.checkpoint.state import Tensors
from skipwise.training.run.directory import RunDirectory


def start_from_run(tensors: Tensors, run: RunDirectory) -> int:
    """Reads the state of the run named by `init_from` into live `tensors`, and returns how many steps it was trained.

    Dense weights, Adam's moments and the rows of signals are taken whole. A row of the tracks' table goes with its
    track, and its optimizer state with it; rows of tracks that are new keep their first values. Each rank reads the
    rows of its own shards.
    """
    source = RunDirectory.open(run.config.init_from)
    path = start_checkpoint(source.path)
    index = open_checkpoint(path)
    of_tracks = {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, ShardedTensor) and f"embedding_bags.{TABLE}." in name
    }
    whole = {name: tensor for name, tensor in tensors.items() if name not in of_tracks}
    load_tensors(whole, path, index)
    for name, tensor in of_tracks.items():
        shape = [source.record.num_rows, *tensor.shape[1:]]
        if index.shape_of(name) != shape or tensor.shape[0] != run.record.num_rows:
            raise UserError(
                f"{path}: '{name}' has shape {index.shape_of(name)}, expected {shape}: column shards with a state each "
                "cannot be taken over; start from a run with --table.sharding row_wise"
            )
        rows = SavedRows(path, index, name, "start from another run")
        for shard in tensor.local_shards():
            first, *columns = shard.metadata.shard_offsets
            target_X, source_X = read_matches(run.matches, first, first + len(shard.tensor))
            for where, block in rows.blocks(source_X):
                if columns:
                    block = block[:, columns[0] : columns[0] + shard.tensor.shape[1]]
                shard.tensor[target_X[where] - first] = block.to(shard.tensor)
    steps = [tensor for name, tensor in whole.items() if name.endswith(".step")]
    return int(steps[0]) if steps else 0
