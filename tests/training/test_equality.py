"""4 ranks = 2 ranks = 1 rank = a dense nn.Embedding: losses, table rows and dense weights over 20 steps."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import rank, world_size
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.batch import FEATURE
from skipwise.datapipes.loader import StepDataset
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import Signals
from skipwise.models.encoder import Encoder
from skipwise.models.rows import own_rows
from skipwise.models.table import SIGNAL_TABLE, TABLE
from skipwise.models.task import Learner, StepLosses
from skipwise.training.build import build_model, reading_inputs, table_weight, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.support.contexts import add_contexts, words
from tests.support.tables import initial_rows

STEPS, TRACKS = 20, 203


def small(recipe: str, path: Path, **table) -> RunConfig:
    """A recipe of the paper, small, without dropout, in exact products."""
    config = RECIPES[recipe]()
    return replace(
        config,
        data=replace(config.data, path=str(path), batch_size=24, lanes=4, negatives=30, workers=0, shuffle_groups=2),
        table=replace(config.table, dim=16, **table),
        encoder=replace(config.encoder, dropout=0.0, heads=2, hidden=16, max_length=12),
        optimizer=replace(config.optimizer, warmup_steps=5, decay_to=0.5, clip_norm=0.5),
        train=replace(config.train, matmul="highest"),
    )


def train_steps(config: RunConfig) -> dict:
    """Losses, this rank's rows and the dense weights after 20 steps on the sharded path."""
    torch.set_float32_matmul_precision("highest")
    store = reading_inputs(config, SessionStore(config.data.path))
    model = build_model(config, store.num_tracks, contexts=store.contexts)
    trainer = Trainer(config, model, STEPS)
    losses = losses_of(trainer, config, store)
    encoder = {name: value.detach().clone() for name, value in model.module.learner.named_parameters()}
    names = (TABLE, SIGNAL_TABLE) if config.data.inputs else (TABLE,)
    return {
        "losses": losses,
        "tables": {name: own_rows(table_weight(model, name), rank(), world_size())[1].clone() for name in names},
        "encoder": encoder,
    }


def losses_of(trainer: Trainer, config: RunConfig, store: SessionStore) -> list[tuple[float, ...]]:
    """Trains for `STEPS` steps."""
    loader, losses, epoch = train_loader(config, store), [], 0
    while len(losses) < STEPS:
        epoch += 1
        losses += [numbers(step) for step in trainer.steps(loader.epoch(epoch))]
        trainer.detach()
    assert len(losses) == STEPS, "the test's epochs must add up to its steps"
    return losses


def numbers(losses: StepLosses) -> tuple[float, ...]:
    return losses.total.item(), losses.nll.item(), losses.nce.item(), losses.keep.item()


def dense_steps(config: RunConfig) -> dict:
    """The same on one process: a plain tensor, row-wise Adagrad by its definition, torch's Adam."""
    store = reading_inputs(config, SessionStore(config.data.path))
    dim, bound, seed = config.table.dim, config.table.init_bound, config.train.seed
    tables = {TABLE: initial_rows(store.num_tracks, dim, bound, seed, config.loss.keep_width)}
    if config.data.inputs:
        tables[SIGNAL_TABLE] = initial_rows(
            Signals.of(config.data.inputs, store.contexts).num_rows, dim, bound, seed + (1 << 40)
        )
    tables = {name: torch.nn.Embedding.from_pretrained(rows, freeze=False) for name, rows in tables.items()}
    round_rows(config, tables)
    reads = bool(config.data.inputs), config.loss.keep_dropout, config.data.profile
    encoder = Encoder(config.encoder, dim, config.loss.keep_width, *reads)
    encoder.reset_parameters(torch.Generator().manual_seed(config.train.seed))
    beside = config.data.heard_negatives, config.data.skipped_negatives
    learner = Learner(
        encoder, config.loss, None, store.num_tracks, *beside, Signals.of(config.data.inputs, store.contexts)
    )
    adam = torch.optim.Adam(learner.parameters(), lr=config.optimizer.learning_rate)
    squares = {name: torch.zeros(len(table.weight)) for name, table in tables.items()}
    dataset: StepDataset = train_loader(config, store).dataset
    losses = []
    for number in range(STEPS):
        batch = dataset[1 + number // dataset.steps, number % dataset.steps]
        looked_up = tables[TABLE](batch.tracks[FEATURE].values())
        rows = torch.cat([looked_up, torch.zeros(batch.tracks.stride() - len(looked_up), looked_up.shape[1])])
        loss, parts = learner(rows, batch, tables[SIGNAL_TABLE].weight if SIGNAL_TABLE in tables else None)
        for module in (learner, *tables.values()):
            module.zero_grad()
        loss.backward()
        # Both rates rise from a tenth over 5 steps, then fall to a half at step 20; the fused step uses the rate
        # that was set after the step before, and so does Adam.
        share = 0.1 + 0.9 * number / 5 if number <= 5 else 1 - 0.5 * (number - 5) / 15
        torch.nn.utils.clip_grad_norm_(learner.parameters(), config.optimizer.clip_norm)
        adam.param_groups[0]["lr"] = config.optimizer.learning_rate * share
        adam.step()
        with torch.no_grad():
            for name, table in tables.items():
                squares[name] += table.weight.grad.square().mean(dim=1)
                rate = config.table.learning_rate * share / (squares[name].sqrt() + config.table.eps)
                table.weight -= rate[:, None] * table.weight.grad
            round_rows(config, tables)
        losses.append(numbers(parts))
    weights = {name: value.detach() for name, value in learner.named_parameters()}
    return {
        "losses": losses,
        "tables": {name: table.weight.detach() for name, table in tables.items()},
        "encoder": weights,
    }


def round_rows(config: RunConfig, tables: dict[str, torch.nn.Embedding]) -> None:
    if config.table.precision == "fp16":
        weight = tables[TABLE].weight.data
        weight.copy_(weight.half())


def assert_equal(results: list[dict], expected: dict, atol: float = 1e-5, table_atol: float = 1e-5) -> None:
    for result in results:
        torch.testing.assert_close(torch.tensor(result["losses"]), torch.tensor(expected["losses"]), rtol=0, atol=atol)
        for name, value in result["encoder"].items():
            torch.testing.assert_close(value, expected["encoder"][name], rtol=0, atol=atol, msg=name)
    for name, whole in expected["tables"].items():
        rows = torch.cat([result["tables"][name] for result in results]).float()
        torch.testing.assert_close(rows, whole, rtol=0, atol=table_atol, msg=name)


@pytest.fixture
def dataset(make_dataset) -> Path:
    data = make_dataset(random_sessions(115, TRACKS), TRACKS)
    columns = {
        "device": words("phone", "tv", None, "car"),
        "hour": words("7", "8"),
        "pause": words("1", "8", "12", None),
    }
    add_contexts(data, columns)
    return data


@pytest.mark.ranks
@pytest.mark.parametrize("sampling", ["shared", "per-session"])
@pytest.mark.parametrize("recipe", ["unidir-skip-track", "unidir-skip-context", "bidir-skip-track"])
def test_any_number_of_ranks_equals_dense(recipe: str, sampling: str, dataset: Path, tmp_path: Path):
    config = small(recipe, dataset)
    config = replace(config, data=replace(config.data, sampling=sampling))
    expected = dense_steps(config)
    assert abs(expected["losses"][0][0] - expected["losses"][-1][0]) > 1e-3, "nothing was learned"
    for count in (1, 2, 4):
        assert_equal(run_on_ranks(tmp_path, count, train_steps, config), expected)


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("recipe", "data", "loss"),
    [
        # `skips` alone has a unit of the feed-forward layer at zero in one step, on which rounding decides.
        ("unidir-skip-track", {"negatives": 0, "inputs": ("device", "skips")}, {"in_batch": True}),
        ("bidir-skip-track", {}, {"in_batch": True}),
        ("unidir-skip-context", {}, {"head": "gbce", "queries": "kept"}),
        ("unidir-skip-track", {"skip_negatives": "other"}, {}),
        ("bidir-skip-track", {"heard_negatives": True}, {}),
        ("unidir", {"inputs": ("skips",), "hidden_inputs": 0.3}, {"keep": 0.5, "keep_dim": 8, "keep_dropout": 0.0}),
        (
            "unidir",
            {"inputs": ("hour", "skips", "device"), "hidden_inputs": 0.3},
            {"keep": 0.5, "keep_dim": 8, "keep_dropout": 0.0},
        ),
        ("unidir", {"inputs": ("device",), "skip_flags": "shuffled-input"}, {}),
        (
            "unidir-skip-track",
            {"targets": "next-kept", "skip_flags": "shuffled-input"},
            {"keep": 0.5, "keep_dim": 4, "keep_dropout": 0.0},
        ),
        ("unidir", {"targets": "next-kept", "skipped_negatives": 4.0}, {}),
        (
            "bidir",
            {"inputs": ("skips",), "skip_flags": "shuffled-label"},
            {"keep": 2.0, "keep_dim": 8, "keep_dropout": 0.0},
        ),
    ],
)
def test_other_losses_take_the_same_steps_on_any_number_of_ranks(
    recipe: str, data: dict, loss: dict, dataset: Path, tmp_path: Path
):
    config = small(recipe, dataset)
    config = replace(config, data=replace(config.data, sampling="shared", **data), loss=replace(config.loss, **loss))
    expected = dense_steps(config)
    assert abs(expected["losses"][0][0] - expected["losses"][-1][0]) > 1e-3, "nothing was learned"
    for count in (1, 2, 4):
        assert_equal(run_on_ranks(tmp_path, count, train_steps, config), expected)


@pytest.mark.ranks
@pytest.mark.parametrize(
    "encoder", [{"kind": "hstu", "positions": "relative", "times": True}, {"kind": "gru", "positions": "none"}]
)
def test_other_encoders_take_the_same_steps_on_4_ranks(encoder: dict, dataset: Path, tmp_path: Path):
    """With in-batch negatives whose targets' logits are not corrected, and the tracks heard beside them."""
    config, inputs = small("unidir-skip-track", dataset), ("pause",) if "times" in encoder else ()
    config = replace(
        config,
        data=replace(config.data, sampling="shared", heard_negatives=True, inputs=inputs),
        encoder=replace(config.encoder, **encoder),
        loss=replace(config.loss, in_batch=True, log_q="negatives", hardest=20),
    )
    expected = dense_steps(config)
    assert abs(expected["losses"][0][0] - expected["losses"][-1][0]) > 1e-3, "nothing was learned"
    assert_equal(run_on_ranks(tmp_path, 4, train_steps, config), expected)


@pytest.mark.ranks
def test_a_rank_may_have_no_session_in_a_step(make_dataset, tmp_path: Path):
    """The last of an epoch has one session, of the second rank: the first one's biases have gradients too."""
    data = make_dataset(random_sessions(97, TRACKS), TRACKS)
    add_contexts(data, {"pause": words("1", "8", "12", None)})
    config = small("unidir-skip-track", data)
    config = replace(
        config,
        data=replace(config.data, sampling="shared", inputs=("pause",)),
        encoder=replace(config.encoder, positions="relative", times=True),
        loss=replace(config.loss, in_batch=True, keep=0.5, keep_dim=8, keep_dropout=0.0),
    )
    assert_equal(run_on_ranks(tmp_path, 2, train_steps, config), dense_steps(config))


@pytest.mark.ranks
@pytest.mark.parametrize("sharding", ["column_wise", "table_wise", "planner"])
def test_other_shardings_equal_row_wise(sharding: str, dataset: Path, tmp_path: Path):
    """With plain SGD: column shards keep a row-wise state each (docs/architecture.md, "Checkpoints").

    With seed 0 one inner value is so near zero that rounding says whether ReLU passes it, and with it a gradient.
    """
    config = small("unidir-skip-track", dataset, optimizer="sgd")
    config = replace(
        config,
        train=replace(config.train, seed=1),
        data=replace(config.data, inputs=("skips",)),
        loss=replace(config.loss, keep=0.5, keep_dim=8, keep_dropout=0.0),
    )
    expected = run_on_ranks(tmp_path, 1, train_steps, config)[0]
    other = replace(config, table=replace(config.table, sharding=sharding))
    assert_equal(run_on_ranks(tmp_path, 2, train_steps, other), expected)


def on_two_nodes(config: RunConfig) -> dict:
    local = world_size() // 2
    os.environ |= {"LOCAL_WORLD_SIZE": str(local), "LOCAL_RANK": str(rank() % local)}
    return train_steps(config)


@pytest.mark.ranks
def test_a_grid_over_two_nodes_equals_row_wise(dataset: Path, tmp_path: Path):
    """Each node has half of the columns, with a state of its own; plain SGD has none."""
    config = small("unidir-skip-track", dataset, optimizer="sgd")
    config = replace(config, data=replace(config.data, inputs=("skips",)), train=replace(config.train, seed=1))
    expected = run_on_ranks(tmp_path, 1, train_steps, config)[0]
    other = replace(config, table=replace(config.table, sharding="grid"))
    assert_equal(run_on_ranks(tmp_path, 4, on_two_nodes, other), expected)


@pytest.mark.ranks
@pytest.mark.parametrize("sharding", ["row_wise", "column_wise"])
def test_half_rows_and_a_half_exchange(sharding: str, dataset: Path, tmp_path: Path):
    """fp16 rows are the dense rows rounded after each step; a half exchange is near, and of fp16 rows loses no bit."""
    config = small("unidir-skip-track", dataset, precision="fp16", sharding=sharding, optimizer="rowwise_adagrad")
    config = replace(config, data=replace(config.data, inputs=("skips",)))
    if sharding == "row_wise":
        expected = dense_steps(config)
        for count in (1, 4):
            results = run_on_ranks(tmp_path, count, train_steps, config)
            # A number may be rounded to the other neighbour, 2^-12 away below 1/4, and a step follows it.
            assert_equal(results, expected, atol=1e-3, table_atol=2e-3)
            assert all(result["tables"][TABLE].dtype == torch.float16 for result in results)
    for precision in ("fp32", "fp16"):
        config = replace(config, table=replace(config.table, precision=precision, exchange="fp32"))
        expected = run_on_ranks(tmp_path, 2, train_steps, config)
        half = run_on_ranks(tmp_path, 2, train_steps, replace(config, table=replace(config.table, exchange="half")))
        whole = {name: torch.cat([each["tables"][name] for each in expected]).float() for name in expected[0]["tables"]}
        # Adam steps as far for a gradient that is next to nothing, so that its rounding shows.
        first = half[0]["losses"][0], expected[0]["losses"][0]
        assert (first[0] == first[1]) == (precision == "fp16"), "only fp16 rows arrive as they are"
        assert half[0]["losses"] != expected[0]["losses"], "gradients are not rounded"
        assert_equal(half, {**expected[0], "tables": whole}, atol=5e-2, table_atol=5e-2)
