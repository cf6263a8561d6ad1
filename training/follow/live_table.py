"""The rows of a live table that training has changed, and rows that begin anew for another track.

Shape legend: X changed rows of this rank, D width.
"""

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.model_tracker.model_delta_tracker import ModelDeltaTrackerTrec

from skipwise.datapipes.batch import FEATURE
from skipwise.models.table import TABLE, Shard, initial_row, local_shards
from skipwise.training.build import table_weight
from skipwise.training.checkpoint.state import Tensors
from skipwise.training.config import RunConfig


class ChangedRows:
    """This rank's rows that lookups of training have touched, as TorchRec's tracker notes them."""

    def __init__(self, model: DistributedModelParallel):
        self._model = model
        self._tracker = ModelDeltaTrackerTrec(model)
        self._name = self._tracker.feature_to_fqn[FEATURE]  # it differs where the model is wrapped for several ranks
        self._shard: Shard | None = next(iter(local_shards(table_weight(model))), None)
        rows = 0 if self._shard is None else len(self._shard.tensor)
        self._changed_R = torch.zeros(rows, dtype=torch.bool)

    def note(self) -> None:
        """Takes over what the tracker has noted, which it keeps batch by batch otherwise."""
        if (found := self._noted()) is not None:
            self._changed_R[found.cpu()] = True

    def forget_lookups(self) -> None:
        """Leaves out the lookups since the last `note`, which only read."""
        self._noted()

    def _noted(self) -> Tensor | None:
        found = self._tracker.get_unique_ids().get(self._name)
        self._tracker.clear()  # it fails on a table whose lookups have all been read
        self._tracker.step()  # what follows counts for the next call
        return found

    def mark(self, rows: list[int]) -> None:
        """Counts these rows of the table as changed, as far as this rank holds them."""
        for row in rows:
            if self._shard is not None and 0 <= (place := row - self._shard.row) < len(self._changed_R):
                self._changed_R[place] = True

    def take(self) -> tuple[Tensor, Tensor]:
        """The numbers int64 [X] of the rows changed since the last call, ascending, and the rows, float32 [X, D]."""
        self.note()
        if self._shard is None:
            width = table_weight(self._model).shape[1]
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, width)
        places_X = self._changed_R.nonzero().flatten()
        self._changed_R.zero_()
        rows_XD = self._shard.tensor.detach()[places_X.to(self._shard.tensor.device)].cpu().float()
        return places_X + self._shard.row, rows_XD


def begin_anew(tensors: Tensors, rows: list[int], config: RunConfig) -> None:
    """Gives rows of the tracks' table the values that they have in a new table, and no optimizer state."""
    for name, tensor in tensors.items():
        if f"embedding_bags.{TABLE}." not in name:
            continue
        pieces = [(0, tensor)]
        if isinstance(tensor, ShardedTensor):
            pieces = [(shard.metadata.shard_offsets[0], shard.tensor) for shard in tensor.local_shards()]
        for first, piece in pieces:
            for row in rows:
                if not 0 <= row - first < len(piece):
                    continue
                with torch.no_grad():
                    if name.endswith(f"{TABLE}.weight"):
                        made = config.table.dim, config.table.init_bound, config.train.seed, config.loss.keep_width
                        piece[row - first].copy_(initial_row(row, *made))
                    else:
                        piece[row - first].zero_()
