"""The optimizers of encoder and table, and one learning-rate schedule over both."""

from functools import partial

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch.optim.lr_scheduler import LambdaLR
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from skipwise.common.distributed import world_size
from skipwise.models.config import TableConfig
from skipwise.training.config import OptimizerConfig

WARMUP_START = 0.1
"""Share of the learning rates at the first step of the warm-up."""


class _Optimizer(CombinedOptimizer):
    """One rank's gradients are taken over and not added to zeros; those of several are views of what they exchange."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        super().zero_grad(set_to_none or world_size() == 1)


def make_optimizer(model: DistributedModelParallel, config: OptimizerConfig) -> CombinedOptimizer:
    """Adam for the dense parameters, with clipping, and the table's fused optimizer, which runs inside backward."""
    dense: KeyedOptimizer = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda parameters: torch.optim.Adam(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
    )
    if config.clip_norm:
        dense = GradientClippingOptimizer(dense, clipping=GradientClipping.NORM, max_gradient=config.clip_norm)
    return _Optimizer([("dense", dense), ("table", model.fused_optimizer)])


def count_table_steps(optimizer: CombinedOptimizer, steps: int) -> None:
    """Has the table's kernels go on counting from `steps`, by which a fused Adam corrects its moments.

    They count every lookup, evaluation's too.
    """
    for kernels in table_kernels(dict(optimizer.optimizers)["table"]):
        kernels.iter.fill_(steps)  # of these two, one alone decides after the first lookup
        kernels.iter_cpu.fill_(steps)


def table_kernels(optimizer: KeyedOptimizer) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """FBGEMM's modules behind the table's part of an optimizer."""
    if isinstance(optimizer, CombinedOptimizer):
        return [kernels for _, part in optimizer.optimizers for kernels in table_kernels(part)]
    return [optimizer._emb_module]


def make_schedule(
    optimizer: CombinedOptimizer, config: OptimizerConfig, table: TableConfig, total_steps: int, steps: int = 0
) -> LambdaLR:
    """The schedule of both learning rates where `steps` of `total_steps` steps are done; `step()` follows each.

    A run that goes on makes a new one at its step, so that no checkpoint holds a schedule.
    """
    learning_rates = {"dense": config.learning_rate, "table": table.learning_rate}
    for name, part in optimizer.optimizers:
        for group in part.param_groups:
            group["initial_lr"] = learning_rates[name]
    schedule = LambdaLR(optimizer, partial(lr_factor, config, total_steps), last_epoch=steps - 1)
    optimizer.zero_grad()  # here a fused optimizer passes its learning rate on to its kernels
    return schedule


def lr_factor(config: OptimizerConfig, total_steps: int, step: int) -> float:
    """What `step`, counted from 0, multiplies the learning rates by: linear warm-up, then linear decay."""
    warmup = min(config.warmup_steps, total_steps - 1)
    if warmup and step <= warmup:
        return WARMUP_START + (1 - WARMUP_START) * step / warmup
    return 1 + (config.decay_to - 1) * (min(step, total_steps) - warmup) / (total_steps - warmup)
