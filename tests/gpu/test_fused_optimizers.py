"""The table's fused optimizers, which run inside backward, against their definitions in plain PyTorch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.common.distributed import device
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.batch import FEATURE
from skipwise.models.table import local_shards
from skipwise.training.build import build_model, table_weight
from skipwise.training.trainer import Trainer
from tests.support.tables import initial_rows

ROWS, DIM, LOOKUPS, STEPS = 150, 16, 400, 6
BETAS = 0.9, 0.999

pytestmark = pytest.mark.gpu


class Plain:
    """Rows [R, D], and the step that changes those with a gradient alone."""

    def __init__(self, optimizer: str, rows_RD: Tensor, rate: float, eps: float):
        self.optimizer, self.rows, self.rate, self.eps, self.steps = optimizer, rows_RD.clone(), rate, eps, 0
        self.first, self.second = torch.zeros_like(rows_RD), torch.zeros_like(rows_RD)

    def step(self, ids: Tensor, gradient: Tensor) -> None:
        """`gradient` [L, D]: of each lookup; those of one row are added up first."""
        self.steps += 1
        met = ids.unique()
        grad = torch.zeros_like(self.rows).index_add_(0, ids, gradient)[met]
        square = grad.square()
        if "rowwise" in self.optimizer:
            square = square.mean(dim=1, keepdim=True).expand_as(grad)
        if self.optimizer == "sgd":
            self.rows[met] -= self.rate * grad
        elif "adagrad" in self.optimizer:
            self.second[met] += square
            self.rows[met] -= self.rate * grad / (self.second[met].sqrt() + self.eps)
        else:  # moments of rows that are not met stay, and the correction counts all steps
            self.first[met] = BETAS[0] * self.first[met] + (1 - BETAS[0]) * grad
            self.second[met] = BETAS[1] * self.second[met] + (1 - BETAS[1]) * square
            mean = self.first[met] / (1 - BETAS[0] ** self.steps)
            scale = (self.second[met] / (1 - BETAS[1] ** self.steps)).sqrt() + self.eps
            self.rows[met] -= self.rate * mean / scale


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad", "adam", "partial_rowwise_adam"])
def test_each_step_is_the_definitions(optimizer: str, group: None):
    """Most rows are looked up several times in a step, and some in none."""
    if device().type == "cpu" and "adam" in optimizer:
        pytest.skip("FBGEMM has it for GPUs alone")
    recipe = RECIPES["unidir"]()
    config = replace(
        recipe,
        table=replace(recipe.table, dim=DIM, optimizer=optimizer, learning_rate=0.03),
        encoder=replace(recipe.encoder, heads=2, hidden=DIM),
    )
    model = build_model(config, ROWS).train()
    _ = Trainer(config, model, total_steps=100)  # hands the learning rate and the number of steps to the kernels
    expected = Plain(optimizer, initial_rows(ROWS, DIM, config.table.init_bound, config.train.seed), 0.03, 1e-8)
    (shard,) = local_shards(table_weight(model))
    assert shard.tensor.device == device() and torch.equal(shard.tensor.cpu(), expected.rows)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        ids = torch.randint(ROWS - 30, (LOOKUPS,), generator=generator) * torch.randint(
            2, (LOOKUPS,), generator=generator
        )
        gradient = torch.randn(LOOKUPS, DIM, generator=generator)
        bags = KeyedJaggedTensor([FEATURE], ids, lengths=torch.ones(LOOKUPS, dtype=torch.int32)).to(device())
        found = model.module.table(bags).values()
        torch.testing.assert_close(found.detach().cpu(), expected.rows[ids], rtol=1e-4, atol=1e-5)
        (found * gradient.to(device())).sum().backward()
        expected.step(ids, gradient)
        torch.testing.assert_close(shard.tensor.cpu(), expected.rows, rtol=1e-4, atol=1e-5)
