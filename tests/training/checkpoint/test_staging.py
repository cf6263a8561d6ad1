"""The copies that a checkpoint is written from stand in host memory, wherever the live tensors are."""

import torch
from torch.distributed._shard.metadata import ShardMetadata

from skipwise.training.checkpoint.state import in_host_memory


def test_a_shard_of_a_gpu_is_copied_into_host_memory():
    live = ShardMetadata([8, 0], [4, 2], "rank:1/cuda:1")
    copy = in_host_memory(live)
    assert copy.placement.device() == torch.device("cpu")
    assert copy.placement.rank() == 1
    assert (copy.shard_offsets, copy.shard_sizes) == ([8, 0], [4, 2])
    assert live.placement.device() == torch.device("cuda", 1)
