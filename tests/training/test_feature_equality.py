"""Rows composed of features: 4 ranks = 2 = 1 = a dense sum by hand, over 20 steps; and what the ranking scores."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.distributed import rank, world_size
from skipwise.datapipes.batch import FEATURE
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.encoder import Encoder
from skipwise.models.rows import own_rows
from skipwise.models.table import TABLE, VALUE_TABLE
from skipwise.models.task import Learner
from skipwise.training.build import build_model, reading_inputs, table_weight, track_rows, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.support.features import KNOWN, add_features, random_rows
from tests.support.tables import initial_rows
from tests.training.test_equality import STEPS, losses_of, numbers, small

TRACKS, COLD = 203, 20
"""The last of the tracks are not played."""


def train_steps(config: RunConfig) -> dict:
    torch.set_float32_matmul_precision("highest")
    store = reading_inputs(config, SessionStore(config.data.path))
    model = build_model(config, store.num_tracks, features=store.features)
    trainer = Trainer(config, model, STEPS)
    losses = losses_of(trainer, config, store)
    model.eval()
    first, composed = track_rows(model, store.features, store.num_tracks)
    own = {name: own_rows(table_weight(model, name), rank(), world_size())[1].clone() for name in (TABLE, VALUE_TABLE)}
    weights = {name: value.detach().clone() for name, value in model.module.learner.named_parameters()}
    projection = model.module.content.projection.weight.detach().clone()
    return {"losses": losses, "tables": own, "encoder": weights, "projection": projection} | {
        "first": first,
        "composed": composed,
    }


class Known:
    """What the rows say, by plain loops: values of each column with a training track that has them, and numbers."""

    def __init__(self, rows: list[dict], played: np.ndarray, order: dict[str, dict[str, int]]):
        self.order, self.row_of = order, {}
        first = 0
        for column in ("genre", "tags"):
            for value, code in order[column].items():
                self.row_of[column, value] = first + code
            first += len(order[column])
        self.num_values = first
        of = {int(row["track_id"][2:]): row for row in rows}
        years = [of[track]["year"] for track in np.flatnonzero(played) if track in of and of[track]["year"]]
        mean, deviation = np.mean(years), np.std(years)
        self.values: dict[int, list[list[int]]] = defaultdict(lambda: [[], []])
        self.numbers = np.zeros((TRACKS, 4), dtype=np.float32)
        for track, row in of.items():
            for place, texts in enumerate([[row["genre"]], row["tags"]]):
                name = ("genre", "tags")[place]
                self.values[track][place] = [self.row_of[name, text] for text in texts if (name, text) in self.row_of]
            if row["year"]:
                self.numbers[track, 0] = (row["year"] - mean) / deviation
            if row["audio"]:
                self.numbers[track, 1:] = row["audio"]

    def composed(self, track: int, own: float, rows, values, projection) -> torch.Tensor:
        found = rows[track] * own + projection @ torch.from_numpy(self.numbers[track])
        for of_column in self.values[track]:
            if of_column:
                found = found + values[of_column].mean(dim=0)
        return found


def dense_steps(config: RunConfig, known: Known) -> dict:
    """One process, plain tensors: row-wise Adagrad by its definition, torch's Adam."""
    store = reading_inputs(config, SessionStore(config.data.path))
    dim, bound, seed = config.row_table.dim, config.table.init_bound, config.train.seed
    rows = torch.zeros(TRACKS, dim, requires_grad=True)
    values = initial_rows(known.num_values, config.table.dim, bound, seed + (1 << 41), config.loss.keep_width)
    values.requires_grad_()
    projection = torch.empty(dim, 4).normal_(0, bound / 2, generator=torch.Generator().manual_seed(seed))
    projection.requires_grad_()
    encoder = Encoder(config.encoder, config.table.dim, config.loss.keep_width)
    encoder.reset_parameters(torch.Generator().manual_seed(seed))
    learner = Learner(encoder, config.loss, None, TRACKS)
    dense = [*learner.parameters(), projection]
    adam = torch.optim.Adam(dense, lr=config.optimizer.learning_rate)
    squares = [torch.zeros(len(table)) for table in (rows, values)]
    dataset, losses = train_loader(config, store).dataset, []
    for number in range(STEPS):
        batch = dataset[1 + number // dataset.steps, number % dataset.steps]
        ids = batch.tracks[FEATURE].values().tolist()
        looked_up = [
            known.composed(track, own, rows, values, projection)
            for track, own in zip(ids, batch.own_U.tolist(), strict=False)
        ]
        padding = torch.zeros(batch.tracks.stride() - len(ids), dim)
        loss, parts = learner(torch.cat([torch.stack(looked_up), padding]), batch)
        learner.zero_grad()
        rows.grad = values.grad = projection.grad = None
        loss.backward()
        share = 0.1 + 0.9 * number / 5 if number <= 5 else 1 - 0.5 * (number - 5) / 15
        torch.nn.utils.clip_grad_norm_(dense, config.optimizer.clip_norm)
        adam.param_groups[0]["lr"] = config.optimizer.learning_rate * share
        adam.step()
        with torch.no_grad():
            for table, square in zip((rows, values), squares, strict=True):
                square += table.grad.square().mean(dim=1)
                rate = config.table.learning_rate * share / (square.sqrt() + config.table.eps)
                table -= rate[:, None] * table.grad
        losses.append(numbers(parts))
    with torch.no_grad():
        composed = torch.stack([known.composed(track, 1.0, rows, values, projection) for track in range(TRACKS)])
    return {
        "losses": losses,
        "tables": {TABLE: rows.detach(), VALUE_TABLE: values.detach()},
        "encoder": {name: value.detach() for name, value in learner.named_parameters()},
        "projection": projection.detach(),
        "composed": composed,
    }


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("recipe", "data", "loss", "table", "counts"),
    [
        ("unidir-skip-track", {"sampling": "shared", "id_dropout": 0.5}, {"in_batch": True}, {}, (1, 4)),
        (
            "unidir",
            {"sampling": "per-session", "id_dropout": 0.2},
            {"keep": 0.5, "keep_dim": 4, "keep_dropout": 0.0},
            {},
            (4,),
        ),
        ("bidir", {"id_dropout": 0.0}, {}, {"sharding": "table_wise"}, (2,)),
    ],
)
def test_any_number_of_ranks_equals_a_dense_sum(make_dataset, tmp_path: Path, recipe, data, loss, table, counts):
    path, rows = make_dataset(random_sessions(115, TRACKS - COLD), TRACKS), random_rows(TRACKS)
    add_features(path, rows)
    config = small(recipe, path, **table)
    config = replace(config, data=replace(config.data, features=KNOWN, **data), loss=replace(config.loss, **loss))
    store = SessionStore(str(path))
    # The order of the values' rows is by a hash of DuckDB's, which is taken as it is.
    order = {
        name: {
            row["value"]: row["code"]
            for row in pq.read_table(path / "features" / f"{place}-values.parquet").to_pylist()
        }
        for place, name in enumerate(("genre", "tags"))
    }
    known = Known(rows, train_counts(store) > 0, order)
    expected = dense_steps(config, known)
    assert abs(expected["losses"][0][0] - expected["losses"][-1][0]) > 1e-3, "nothing was learned"
    assert not expected["tables"][TABLE][-COLD:].any() and expected["composed"][-COLD:].any(), "cold tracks"
    for count in counts:
        results = run_on_ranks(tmp_path, count, train_steps, config)
        for result in results:
            for name in ("losses", "projection"):
                found, wanted = torch.as_tensor(result[name]), torch.as_tensor(expected[name])
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, msg=name)
            for name, value in result["encoder"].items():
                torch.testing.assert_close(value, expected["encoder"][name], rtol=0, atol=1e-5, msg=name)
        for name, whole in expected["tables"].items():
            parts = [result["tables"][name] for result in results]
            torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5, msg=name)
        composed = torch.cat([result["composed"] for result in results])
        torch.testing.assert_close(composed, expected["composed"], rtol=0, atol=1e-5)
