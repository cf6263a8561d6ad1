"""Training steps on the card against the same steps on a CPU: losses, rows, gradients and dense weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skipwise.common.distributed import device
from skipwise.common.product_precision import set_product_precision
from skipwise.components.recipes import named_recipe
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.table import SIGNAL_TABLE, TABLE, local_shards
from skipwise.training.build import build_model, reading_inputs, table_weight, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer

PAPER = ["unidir", "unidir-skip-context", "unidir-skip-track", "bidir", "bidir-skip-context", "bidir-skip-track"]
OTHERS = ["best", "best-long", "ligr", "hstu", "gru", "nextitnet", "gbce", "mixed-exact", "hardest-100"]
OTHERS += ["other-sessions", "skipped-negatives", "times"]
STEPS = 3
RATE = 0.003
"""Of both optimizers: how far a step of Adam moves a weight, and about as far one of the table's."""

pytestmark = pytest.mark.gpu


def small(name: str, path: Path, **table) -> RunConfig:
    """A recipe or an ablation, small, in exact products, with nothing drawn at random on the device."""
    config = named_recipe("hstu" if name == "times" else name)
    if name == "times":
        pauses = replace(config.data, inputs=("pause",))
        config = replace(config, data=pauses, encoder=replace(config.encoder, times=True))
    hardest = min(config.loss.hardest, 7)
    return replace(
        config,
        data=replace(config.data, path=str(path), batch_size=24, lanes=4, negatives=30, workers=0, shuffle_groups=2),
        table=replace(config.table, **{"dim": 16, "learning_rate": RATE} | table),
        encoder=replace(config.encoder, dropout=0.0, track_dropout=0.0, heads=2, hidden=16, max_length=12),
        loss=replace(config.loss, keep_dropout=0.0, keep_dim=8, hardest=hardest),
        optimizer=replace(config.optimizer, learning_rate=RATE),
        train=replace(config.train, matmul="highest"),
    )


def steps_of(config: RunConfig) -> dict[str, dict[str, Tensor]]:
    """Losses of some steps; then the rows, the dense weights, and the last step's gradients by these."""
    set_product_precision(config.train.matmul)
    store = reading_inputs(config, SessionStore(config.data.path))
    model = build_model(config, store.num_tracks, contexts=store.contexts)
    trainer, batches = Trainer(config, model, total_steps=STEPS), train_loader(config, store).epoch(1)
    losses = [vars(trainer.step(batches)) for _ in range(STEPS)]
    trainer.detach()
    tables = {name: table_weight(model, name) for name in (TABLE, SIGNAL_TABLE)[: 1 + bool(config.data.inputs)]}
    dense = dict(model.module.learner.named_parameters())
    assert dense and all(value.device == device() for value in dense.values())
    found = {
        "losses": {name: torch.stack([step[name] for step in losses]) for name in losses[0]},
        "rows": {name: local_shards(weight)[0].tensor.float() for name, weight in tables.items()},
        "weights": dense,
        "gradients": {name: value.grad for name, value in dense.items() if value.grad is not None},
    }
    empty = [part for part, values in found.items() if not values]
    assert not empty, f"no {' and no '.join(empty)} were found in the model"
    return {
        part: {name: value.detach().cpu().clone() for name, value in values.items()} for part, values in found.items()
    }


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest distance of a tensor from what is expected, in lengths of that; of what is next to nothing beside
    the others, such as the gradient by a key's bias, in shares of the longest."""
    assert found.keys() == expected.keys()
    longest = max(tensor.norm() for tensor in expected.values())
    lengths = {name: max(tensor.norm(), 1e-3 * longest) for name, tensor in expected.items()}
    return max((float((found[name] - expected[name]).norm() / lengths[name]), name) for name in expected)


@pytest.fixture(scope="module")
def expected_of(begin_on_cpu: Callable, sessions_path: Path) -> dict[str, Callable]:
    """What waits for the CPU's results, by recipe; they are computed while the card takes its own steps."""
    return {name: begin_on_cpu(steps_of, small(name, sessions_path)) for name in PAPER + OTHERS}


@pytest.mark.parametrize("name", PAPER + OTHERS)
def test_steps(name: str, group: None, expected_of: dict, sessions_path: Path, record_property: Callable):
    found, expected = steps_of(small(name, sessions_path)), expected_of[name]()
    total = expected["losses"]["total"]
    assert total.isfinite().all() and (total[0] - total[-1]).abs() > 1e-4, "nothing was learned"
    apart = {part: distance(found[part], expected[part]) for part in expected}
    record_property("distance", apart)
    assert apart["losses"][0] < 1e-5
    assert apart["rows"][0] < 1e-4
    # Where a product is so near zero that rounding says whether ReLU passes it, one position's gradient is another.
    assert apart["gradients"][0] < 1e-3
    # Adam steps as far for a gradient that is next to nothing, whose rounding then shows.
    assert apart["weights"][0] < 5e-3
