"""The schedule of both learning rates: worked by hand, in the optimizers and the table's kernels, and on resuming."""

from dataclasses import replace

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as Kernels

from skipwise.common.distributed import device, process_group
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.config import EncoderConfig, TableConfig
from skipwise.training.build import build_model, table_weight, train_loader
from skipwise.training.config import OptimizerConfig, RunConfig
from skipwise.training.optimizer import lr_factor, make_optimizer, make_schedule, table_kernels
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions

CONFIG = OptimizerConfig(learning_rate=0.003, warmup_steps=3, decay_to=0.4)


@pytest.mark.parametrize(
    ("config", "total_steps", "factors"),
    [
        (CONFIG, 9, [0.1, 0.4, 0.7, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4]),
        (OptimizerConfig(), 3, [1.0, 1.0, 1.0, 1.0]),
        (OptimizerConfig(warmup_steps=2), 100, [0.1, 0.55, 1.0, 1.0]),
        (OptimizerConfig(decay_to=0.0), 2, [1.0, 0.5, 0.0]),
        (OptimizerConfig(warmup_steps=5), 2, [0.1, 1.0, 1.0]),  # a warm-up ends before the last step
        (OptimizerConfig(warmup_steps=5), 1, [1.0, 1.0]),
    ],
)
def test_factors_by_hand(config: OptimizerConfig, total_steps: int, factors: list[float]):
    assert [lr_factor(config, total_steps, step) for step in range(len(factors))] == pytest.approx(factors)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "sgd"])
def test_both_optimizers_and_the_kernels_follow_it_from_any_step(optimizer: str, monkeypatch):
    passed_on, set_learning_rate = [], Kernels.set_learning_rate
    monkeypatch.setattr(
        Kernels, "set_learning_rate", lambda self, lr: (passed_on.append(lr), set_learning_rate(self, lr))
    )
    table = TableConfig(dim=8, learning_rate=0.05, optimizer=optimizer)
    config = replace(RunConfig(), table=table, encoder=EncoderConfig(heads=2, hidden=8))
    with process_group():
        model = build_model(config, 20)

        def rates() -> list[float]:
            both.zero_grad()  # as every step begins
            assert passed_on[-1] == both.param_groups[-1]["lr"]
            return [group["lr"] for group in both.param_groups]

        both = make_optimizer(model, CONFIG)
        schedule = make_schedule(both, CONFIG, table, 9)
        followed = [rates()]
        for _ in range(9):
            both.step()
            schedule.step()
            followed.append(rates())
        assert followed == [
            [0.003 * lr_factor(CONFIG, 9, step), 0.05 * lr_factor(CONFIG, 9, step)] for step in range(10)
        ]
        for steps in (0, 1, 3, 4, 9):
            both = make_optimizer(model, CONFIG)
            schedule = make_schedule(both, CONFIG, table, 9, steps)
            assert rates() == followed[steps]
            both.step()
            schedule.step()
            assert steps == 9 or rates() == followed[steps + 1]


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_weight_decay_shrinks_the_encoder_alone(weight_decay: float):
    """Adam's first step along a gradient g is -lr * g / (|g| + 1e-8); without a loss, g is weight decay * weight."""
    config = replace(RunConfig(), table=TableConfig(dim=8), encoder=EncoderConfig(heads=2, hidden=8))
    with process_group():
        model = build_model(config, 20)
        rows = table_weight(model).local_shards()[0].tensor
        weights = dict(model.module.learner.named_parameters())
        before, rows_before = {name: weight.detach().clone() for name, weight in weights.items()}, rows.clone()
        optimizer = make_optimizer(model, OptimizerConfig(learning_rate=0.01, weight_decay=weight_decay))
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        for name, weight in weights.items():
            gradient = weight_decay * before[name]
            torch.testing.assert_close(weight.detach(), before[name] - 0.01 * gradient / (gradient.abs() + 1e-8))
        assert torch.equal(rows, rows_before)


def test_a_gradient_is_clipped_to_the_norm_asked_for():
    config = replace(RunConfig(), table=TableConfig(dim=8), encoder=EncoderConfig(heads=2, hidden=8))
    with process_group():
        weights = list((model := build_model(config, 20)).module.learner.parameters())
        for clip_norm, norm in ((0.5, 0.5), (0.0, 3.0), (7.0, 3.0)):
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            weights[0].grad.view(-1)[0] = 3.0
            make_optimizer(model, OptimizerConfig(clip_norm=clip_norm)).step()
            assert weights[0].grad.norm().item() == pytest.approx(norm, rel=1e-4)


def test_what_is_looked_up_between_two_steps_is_no_step_of_the_tables(make_dataset):
    """A fused Adam, for GPUs alone, corrects its moments by what its kernels have counted."""
    data = make_dataset(random_sessions(40, 30), 30)
    config = replace(RunConfig(), table=TableConfig(dim=8), encoder=EncoderConfig(heads=2, hidden=8))
    config = replace(config, data=replace(config.data, path=str(data), batch_size=8, negatives=5, lanes=1, workers=0))
    with process_group():
        trainer = Trainer(config, build_model(config, 30).train(), total_steps=10)
        trainer.set_step(2, steps_before=100)
        (kernels,) = table_kernels(dict(trainer.optimizer.optimizers)["table"])
        batches = train_loader(config, SessionStore(str(data))).epoch(1)
        for steps in (103, 104):
            trainer.step(batches)
            assert (kernels.iter.item(), kernels.iter_cpu.item()) == (steps, steps)
        trainer.detach()
        with torch.no_grad():
            trainer.model.module.look_up(next(train_loader(config, SessionStore(str(data))).epoch(2)).to(device()))
        assert kernels.iter_cpu.item() == 105
        trainer.step(batches)
        assert (kernels.iter.item(), kernels.iter_cpu.item()) == (105, 105)
