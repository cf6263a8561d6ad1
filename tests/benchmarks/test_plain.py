"""The plain baseline does the real model's work: the same losses, step for step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipwise.benchmarks.baselines.plain_model import Plain, PlainBatch, PlainStep, check_plain
from skipwise.common.errors import UserError
from skipwise.components.recipes import named_recipe
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.encoder import Encoder
from skipwise.models.task import Learner
from skipwise.training.build import build_model, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.support.tables import initial_rows

STEPS, TRACKS = 200, 203


def small(recipe: str, sampling: str, path: Path) -> RunConfig:
    """A recipe, small, without dropout, in exact products."""
    config = named_recipe(recipe)
    return replace(
        config,
        data=replace(config.data, path=str(path), batch_size=24, lanes=4, negatives=30, workers=0, sampling=sampling),
        table=replace(config.table, dim=16),
        encoder=replace(config.encoder, dropout=0.0, heads=2, hidden=16, max_length=12),
        train=replace(config.train, matmul="highest"),
    )


def plain_batch(batch: SessionBatch, tracks: int) -> PlainBatch:
    """The same sessions, masks and negatives as track rows: the one place that knows how a batch holds negatives."""
    empty = len(batch.tracks.lengths()) - 1
    rows = torch.full((empty + 1,), tracks)
    rows[: len(batch.tracks.values())] = batch.tracks.values()
    sessions = len(batch.items_BT)
    left_out_BP = torch.zeros(sessions, len(batch.negatives_P), dtype=torch.bool)
    left_out_BP[batch.collides_X2[:, 0], batch.collides_X2[:, 1]] = True
    place_P = torch.arange(len(batch.negatives_P))
    left_out_BP |= (place_P < batch.window_B2[:, :1]) | (place_P >= batch.window_B2[:, 1:])
    return PlainBatch(
        tracks_BT=rows[batch.items_BT],
        length_B=(batch.items_BT != empty).sum(dim=1),
        skipped_BT=batch.skipped_BT,
        negatives=rows[batch.negatives_P],
        collides_BK=left_out_BP,
        masked_BT=batch.masked_BT if batch.masked_BT.any() else None,
    )


class RowwiseAdagrad:
    """FBGEMM's EXACT_ROWWISE_ADAGRAD by its definition: one mean of squares a row."""

    def __init__(self, weight: torch.nn.Parameter, learning_rate: float, eps: float):
        self.weight, self.learning_rate, self.eps = weight, learning_rate, eps
        self.squares = torch.zeros(len(weight))

    def step(self) -> None:
        gradient = self.weight.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        self.squares[rows] += values.square().mean(dim=1)
        with torch.no_grad():
            self.weight[rows] -= (self.learning_rate / (self.squares[rows].sqrt() + self.eps))[:, None] * values


def same_weights(model: Plain, config: RunConfig) -> None:
    """Gives plain the real model's initial table and encoder."""
    encoder = Encoder(config.encoder, config.table.dim)
    encoder.reset_parameters(torch.Generator().manual_seed(config.train.seed))
    with torch.no_grad():
        model.table.weight[:-1] = initial_rows(TRACKS, config.table.dim, config.table.init_bound, config.train.seed)
        model.positions.weight.copy_(encoder.positions)
        if model.mask_token is not None:
            model.mask_token.copy_(encoder.mask_token)
    model.norm.load_state_dict(encoder.norm.state_dict())
    model.prediction.load_state_dict(encoder.prediction.state_dict())
    for mine, real in zip(model.blocks.layers, encoder.blocks, strict=True):
        for part, source in (
            (mine.self_attn.out_proj, real.merge),
            (mine.linear1, real.widen),
            (mine.linear2, real.narrow),
            (mine.norm1, real.attention_norm),
            (mine.norm2, real.feed_forward_norm),
        ):
            part.load_state_dict(source.state_dict())
        with torch.no_grad():
            mine.self_attn.in_proj_weight.copy_(real.project.weight)
            mine.self_attn.in_proj_bias.copy_(real.project.bias)


def batches(config: RunConfig, count: int) -> list[SessionBatch]:
    dataset = train_loader(config, SessionStore(config.data.path)).dataset
    return [dataset[1 + number // dataset.steps, number % dataset.steps] for number in range(count)]


def fast_losses(config: RunConfig) -> list[float]:
    """The real path's, by the pipeline."""
    torch.set_float32_matmul_precision("highest")
    model = build_model(config, TRACKS)
    trainer = Trainer(config, model, STEPS)
    return [losses.total.item() for losses in trainer.steps(iter(batches(config, STEPS)))]


def plain_losses(config: RunConfig) -> list[float]:
    model = Plain(config, TRACKS)
    same_weights(model, config)
    table = RowwiseAdagrad(model.table.weight, config.table.learning_rate, config.table.eps)
    step = PlainStep(model, config, table)
    return [step(plain_batch(batch, TRACKS)).item() for batch in batches(config, STEPS)]


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(random_sessions(115, TRACKS), TRACKS)


@pytest.mark.parametrize("sampling", ["shared", "per-session"])
@pytest.mark.parametrize(
    "recipe",
    ["unidir", "unidir-skip-track", "unidir-skip-context", "bidir-skip-track", "bidir-skip-context", "kept-queries"],
)
def test_loss_equals_the_real_models(recipe: str, sampling: str, dataset: Path):
    config = small(recipe, sampling, dataset)
    encoder = Encoder(config.encoder, config.table.dim)
    encoder.reset_parameters(torch.Generator().manual_seed(config.train.seed))
    learner = Learner(encoder, config.loss, None, TRACKS)
    model = Plain(config, TRACKS)
    same_weights(model, config)
    for batch in batches(config, 3):
        rows = batch.tracks.values()
        empty = torch.zeros(len(batch.tracks.lengths()) - len(rows), config.table.dim)
        expected, _ = learner(torch.cat([model.table.weight[rows], empty]), batch)
        torch.testing.assert_close(model(plain_batch(batch, TRACKS)), expected, rtol=0, atol=1e-5)


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("recipe", "sampling"), [("unidir-skip-track", "shared"), ("bidir-skip-context", "per-session")]
)
def test_takes_the_real_steps(recipe: str, sampling: str, dataset: Path, tmp_path: Path):
    config = small(recipe, sampling, dataset)
    # At the recipe's 0.005 Adam makes whole steps of gradients that are nothing but rounding: 1e-3 after 150 steps.
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-3))
    expected = torch.tensor(run_on_ranks(tmp_path, 1, fast_losses, config)[0])
    found = torch.tensor(plain_losses(config))
    assert expected[:20].mean() - expected[-20:].mean() > 0.1, "nothing was learned"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_bf16_and_sparse_adam_learn_as_well(dataset: Path):
    config = small("unidir-skip-track", "shared", dataset)
    config = replace(config, train=replace(config.train, precision="bf16"))
    step = PlainStep(Plain(config, TRACKS), config)
    losses = [step(plain_batch(batch, TRACKS)).item() for batch in batches(config, 60)]
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize(
    ("recipe", "work"),
    [
        ("in-batch", "in-batch negatives"),
        ("gbce", "gBCE"),
        ("hstu-blind", "encoder of kind hstu"),
        ("hardest-100", "hardest negatives"),
        ("heard-negatives", "heard tracks among the negatives"),
        ("skipped-negatives", "next kept tracks as targets"),
        ("inputs", "inputs beside the tracks"),
        ("keep", "keep head"),
        ("other-sessions", "other sessions' skips"),
        ("filter", "sessions without their skipped tracks"),
    ],
)
def test_other_work_is_refused(recipe: str, work: str):
    with pytest.raises(UserError, match=f"has no {work}.*--baseline none"):
        check_plain(named_recipe(recipe))
