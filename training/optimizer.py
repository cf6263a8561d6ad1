"""The dense optimizer, its clipping, and one learning-rate schedule over dense and fused optimizers alike."""

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.warmup import WarmupOptimizer, WarmupPolicy, WarmupStage

from skipwise.models.config import TableConfig
from skipwise.training.config import OptimizerConfig


def make_optimizer(
    model: DistributedModelParallel, config: OptimizerConfig, table: TableConfig, total_steps: int
) -> CombinedOptimizer:
    """Dense Adam and the table's fused optimizer under one `step()`; the fused one has updated its rows in backward."""
    dense: KeyedOptimizer = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(model.named_parameters())),
        lambda parameters: torch.optim.Adam(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
    )
    if config.clip_norm:
        dense = GradientClippingOptimizer(dense, clipping=GradientClipping.NORM, max_gradient=config.clip_norm)
    scheduled = [
        (name, WarmupOptimizer(optimizer, _stages(config, total_steps), rate, param_name=f"__{name}_warmup"))
        for name, optimizer, rate in (
            ("dense", dense, config.learning_rate),
            ("table", model.fused_optimizer, table.learning_rate),
        )
    ]
    return CombinedOptimizer(scheduled)


def _stages(config: OptimizerConfig, total_steps: int) -> list[WarmupStage]:
    stages = []
    warmup = min(config.warmup_steps, total_steps - 1)
    if warmup:
        stages.append(WarmupStage(WarmupPolicy.LINEAR, max_iters=warmup, value=0.1))
    if config.decay_to < 1:
        stages.append(
            WarmupStage(
                WarmupPolicy.INTERPOLATE,
                max_iters=total_steps,
                value=1.0,
                end_value=config.decay_to,
                start_interpolating_iters=warmup,
            )
        )
    return stages
