"""A sharding of a table in two directions: columns over nodes, and within each node rows over its ranks.

TorchRec's own generator of this plan (`grid_shard`) takes the whole width for one node.
"""

from torch import nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torchrec.distributed.sharding_plan import ParameterShardingGenerator
from torchrec.distributed.types import ModuleSharder, ParameterSharding, ShardingType

from skipwise.models.config import row_block


def grid(num_nodes: int, compute_kernel: str) -> ParameterShardingGenerator:
    """The plan of a table whose width `num_nodes` divides."""

    def split(
        param: nn.Parameter,
        local_size: int,
        world_size: int,
        device_type: str,
        sharder: ModuleSharder[nn.Module],
    ) -> ParameterSharding:
        num_rows, dim = param.shape
        columns, shards = dim // num_nodes, []
        for rank in range(world_size):
            node, local_rank = divmod(rank, local_size)
            first, last = row_block(num_rows, local_rank, local_size)
            index = "" if device_type == "cpu" else f":{local_rank}"
            shards.append(
                ShardMetadata(
                    shard_sizes=[last - first, columns],
                    shard_offsets=[first, node * columns],
                    placement=f"rank:{rank}/{device_type}{index}",
                )
            )
        return ParameterSharding(
            sharding_spec=EnumerableShardingSpec(shards),
            sharding_type=ShardingType.GRID_SHARD.value,
            compute_kernel=compute_kernel,
            ranks=list(range(world_size)),
        )

    return split
