"""The tensors that a training is made of, by name: weights and both optimizers' state."""

import copy

import torch
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

MODEL = "model."
_OPTIMIZER = "optimizer."

Tensors = dict[str, Tensor | ShardedTensor]


def model_tensors(model: DistributedModelParallel) -> Tensors:
    """The live weights; each rank has its own rows of the table."""
    return {MODEL + name: tensor for name, tensor in model.state_dict().items()}


def training_tensors(model: DistributedModelParallel, optimizer: CombinedOptimizer) -> Tensors:
    """The live weights and optimizer state. Adam's moments, which begin with its first step, are made where missing."""
    _begin_moments(optimizer)
    state = {
        f"{_OPTIMIZER}{parameter}.{name}": value
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    return model_tensors(model) | state


def _begin_moments(optimizer: CombinedOptimizer) -> None:
    """Makes Adam's state as its first step would: zero moments after zero steps."""
    dense = dict(optimizer.optimizers)["dense"]
    for group in dense.param_groups:
        for parameter in group["params"]:
            if not dense.state[parameter]:
                dense.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                for moment in ("exp_avg", "exp_avg_sq"):
                    dense.state[parameter][moment] = torch.zeros_like(parameter)


class Staging(BlockingAsyncStager):
    """Copies live tensors into host memory that is kept for the next time, so that the loop waits for the copy alone.

    Fresh memory would have to be cleared page by page: half of the pause.
    """

    def stage(self, state_dict: Tensors) -> Tensors:
        """Copies of `state_dict`, which stay valid until the next call."""
        if self.state_dict_cache is None:
            self.state_dict_cache = {name: _empty_copy(value) for name, value in state_dict.items()}
        for name, value in state_dict.items():
            for copied, live in zip(local_tensors(self.state_dict_cache[name]), local_tensors(value), strict=True):
                copied.copy_(live)
        return self.state_dict_cache

    def close(self) -> None:
        """Frees the copies."""
        self.state_dict_cache = None


def local_tensors(value: Tensor | ShardedTensor) -> list[Tensor]:
    """This rank's pieces, live."""
    if isinstance(value, ShardedTensor):
        return [shard.tensor.detach() for shard in value.local_shards()]
    return [value.detach()]


def _empty_copy(value: Tensor | ShardedTensor) -> Tensor | ShardedTensor:
    if not isinstance(value, ShardedTensor):
        return torch.empty_like(value, device="cpu", requires_grad=False)
    shards = [
        Shard(torch.empty_like(shard.tensor, device="cpu", requires_grad=False), in_host_memory(shard.metadata))
        for shard in value.local_shards()
    ]
    metadata = copy.deepcopy(value.metadata())
    metadata.shards_metadata = [in_host_memory(shard) for shard in metadata.shards_metadata]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, metadata, process_group=value._process_group
    )


def in_host_memory(shard: ShardMetadata) -> ShardMetadata:
    """The same shard of the same rank, on the CPU."""
    assert isinstance(shard.placement, _remote_device)
    placement = f"rank:{shard.placement.rank()}/cpu"
    return ShardMetadata(list(shard.shard_offsets), list(shard.shard_sizes), placement)
