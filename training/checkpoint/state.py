"""The tensors that a training is made of, by name: weights, both optimizers' state; the schedule follows from steps."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed.checkpoint.staging import AsyncStager
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer
from torchrec.optim.warmup import WarmupOptimizer

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
        if name != "warmup"
    }
    return model_tensors(model) | state


def set_steps(optimizer: CombinedOptimizer, steps: int, trained_before: int = 0) -> None:
    """Puts both learning-rate schedules where `steps` steps leave them.

    A fused Adam's moments are counted from their own beginning, `trained_before` this schedule's.
    """
    optimizer.set_optimizer_step(steps + trained_before)
    for _, scheduled in optimizer.optimizers:
        _set_schedule(scheduled, steps)
    # The fused optimizer hears of a learning rate when it is told to forget gradients, of which it has none.
    optimizer.zero_grad()


def _set_schedule(optimizer: WarmupOptimizer, steps: int) -> None:
    """The schedule's own counting: a stage ends with the step after its last one."""
    ends = [stage.max_iters for stage in optimizer._stages[:-1]]
    stage = 0
    while stage < len(ends) and steps > ends[stage]:
        stage += 1
    optimizer.state[optimizer._warmup_param] = {"warmup": torch.tensor([steps, stage])}
    optimizer.post_load_state_dict()


def _begin_moments(optimizer: CombinedOptimizer) -> None:
    for parameter, state in _adam_states(optimizer):
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


def _adam_states(optimizer: CombinedOptimizer) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for key, scheduled in optimizer.optimizers:
        if key == "dense":
            inner = scheduled
            while not isinstance(inner, torch.optim.Adam):
                inner = inner._optimizer
            for group in inner.param_groups:
                for parameter in group["params"]:
                    yield parameter, inner.state[parameter]


class Staging(AsyncStager):
    """Copies live tensors into host memory that is kept for the next time, so that the loop waits for the copy alone.

    Fresh memory would have to be cleared page by page: half of the pause.
    """

    _synchronize_after_execute = False

    def __init__(self) -> None:
        self._copies: Tensors = {}

    def stage(self, state_dict: Tensors) -> Tensors:
        """Copies of `state_dict`, which stay valid until the next call."""
        if not self._copies:
            self._copies = {name: _empty_copy(value) for name, value in state_dict.items()}
        for name, value in state_dict.items():
            for copied, live in zip(local_tensors(self._copies[name]), local_tensors(value), strict=True):
                copied.copy_(live)
        return self._copies

    def synchronize_staging(self) -> None:
        """Staged already."""

    def close(self) -> None:
        """Frees the copies."""
        self._copies = {}


def local_tensors(value: Tensor | ShardedTensor) -> list[Tensor]:
    """This rank's pieces, live."""
    if isinstance(value, ShardedTensor):
        return [shard.tensor.detach() for shard in value.local_shards()]
    return [value.detach()]


def _empty_copy(value: Tensor | ShardedTensor) -> Tensor | ShardedTensor:
    if not isinstance(value, ShardedTensor):
        return torch.empty_like(value, device="cpu", requires_grad=False)
    shards = [
        Shard(torch.empty_like(shard.tensor, device="cpu", requires_grad=False), copy.deepcopy(shard.metadata))
        for shard in value.local_shards()
    ]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, value.metadata(), process_group=value._process_group
    )
