"""bfloat16 products and float16 rows on the card: training gets as far as in float32."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skipwise.common.product_precision import set_product_precision
from skipwise.components.recipes import named_recipe
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.table import TABLE, local_shards
from skipwise.training.build import build_model, reading_inputs, table_weight, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer, seed_dropout

EPOCHS = 6

pytestmark = pytest.mark.gpu


def learning(name: str, path: Path, precision: str = "fp32", rows: str = "fp32", dropout: float = 0.0) -> RunConfig:
    """As fast as such a small dataset allows."""
    config = named_recipe(name)
    drops = {"dropout": dropout, "track_dropout": dropout}
    return replace(
        config,
        data=replace(config.data, path=str(path), batch_size=24, lanes=4, negatives=60, workers=0),
        table=replace(config.table, dim=32, precision=rows, learning_rate=0.2),
        encoder=replace(config.encoder, heads=2, hidden=32, max_length=12, **drops),
        loss=replace(config.loss, keep_dropout=dropout),
        train=replace(config.train, precision=precision),
    )


def losses_of(config: RunConfig) -> tuple[Tensor, Tensor]:
    """The mean loss of each epoch, and the rows at the end."""
    set_product_precision(config.train.matmul)
    store = reading_inputs(config, SessionStore(config.data.path))
    model = build_model(config, store.num_tracks, contexts=store.contexts).train()
    loader = train_loader(config, store)
    trainer, losses = Trainer(config, model, loader.steps * EPOCHS), []
    for epoch in range(1, EPOCHS + 1):
        seed_dropout(config.train.seed, epoch, 0)
        losses.append(torch.stack([step.total for step in trainer.steps(loader.epoch(epoch))]).mean().cpu())
        trainer.detach()
    return torch.stack(losses), local_shards(table_weight(model, TABLE))[0].tensor.cpu()


@pytest.mark.parametrize("name", ["unidir-skip-track", "best"])
def test_bf16_and_fp16_rows_learn_as_fp32_does(name: str, group: None, sessions_path: Path, record_property: Callable):
    exact, rows = losses_of(learning(name, sessions_path))
    record_property("losses_fp32", exact.tolist())
    assert rows.dtype == torch.float32 and exact[-1] < 0.9 * exact[0], "float32 itself learns nothing"
    for precision, kept_in in (("bf16", "fp32"), ("fp32", "fp16")):
        losses, rows = losses_of(learning(name, sessions_path, precision, kept_in))
        record_property(f"losses_{precision}_rows_{kept_in}", losses.tolist())
        assert rows.dtype == (torch.float16 if kept_in == "fp16" else torch.float32) and rows.isfinite().all()
        assert not torch.equal(losses, exact), "it changes nothing"
        torch.testing.assert_close(losses, exact, rtol=0.02, atol=0.0, msg=f"{precision}, {kept_in}: {losses} {exact}")


@pytest.mark.parametrize("name", ["bidir-skip-context", "hstu", "best"])
def test_all_of_it_with_dropout(name: str, group: None, sessions_path: Path):
    """Masks are the device's own, so that no other run has the same."""
    losses, rows = losses_of(learning(name, sessions_path, "bf16", "fp16", dropout=0.2))
    assert losses.isfinite().all() and rows.isfinite().all() and losses[-1] < 0.95 * losses[0]
