"""Each recipe and each next-track head learns which tracks go together, not only what is popular."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipwise.common.distributed import process_group
from skipwise.common.files import read_json
from skipwise.components.recipes import RECIPES, named_recipe
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines.measuring import measure_baseline
from skipwise.studies.baselines.popularity import Popularity
from skipwise.training.config import RunConfig
from skipwise.training.loop import train
from tests.conftest import write_dataset

PLAYLISTS, TRACKS = 10, 100
MARGIN = 0.08
"""Of NDCG@10 above popularity."""


def config_of(data: Path, recipe: str) -> RunConfig:
    config = named_recipe(recipe)
    data_config = replace(config.data, path=str(data), batch_size=32, lanes=4, workers=0)
    # A cloze model is trained on a fifth of the positions alone.
    epochs = 10 if config.encoder.direction == "bidirectional" else 4
    return replace(
        config,
        data=replace(data_config, negatives=min(config.data.negatives, 60)),
        table=replace(config.table, dim=32, learning_rate=0.3),
        encoder=replace(config.encoder, heads=2, hidden=32, dropout=0.1),
        train=replace(config.train, epochs=epochs, patience=0, refit=False),
        evaluate=replace(config.evaluate, candidates=60),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Sessions that play a stretch of one playlist, of Zipf popularity; a tenth of the plays are of any other."""
    random = np.random.default_rng(0)
    share = 1 / (1 + np.arange(PLAYLISTS)) / (1 / (1 + np.arange(PLAYLISTS))).sum()
    sessions = []
    for length in random.integers(4, 10, 600):
        other = 10 * random.choice(PLAYLISTS, length, p=share) + random.integers(0, 10, length)
        own = 10 * random.choice(PLAYLISTS, p=share) + (random.integers(10) + np.arange(length)) % 10
        rows = np.where(random.random(length) < 0.1, other, own)
        sessions.append((rows.tolist(), random.integers(0, 4, length).tolist()))
    return write_dataset(tmp_path_factory.mktemp("learning") / "data", sessions, TRACKS)


@pytest.fixture(scope="module")
def popularity(data: Path, tmp_path_factory) -> dict:
    """Its metrics by protocol, on the targets that the models are tested on."""
    folder = tmp_path_factory.mktemp("popularity") / "popularity"
    with process_group():
        measure_baseline(Popularity, config_of(data, "best"), SessionStore(str(data)), folder)
    return read_json(folder / "metrics.json", "metrics")


@pytest.mark.parametrize("recipe", [*RECIPES, "gbce", "in-batch", "heard-negatives"])
def test_it_ranks_far_better_than_popularity(recipe: str, data: Path, popularity: dict, tmp_path: Path):
    with process_group():
        run = train(replace(config_of(data, recipe), run_dir=str(tmp_path / "run")), recipe)
    for protocol in ("served", "full"):
        floor, found = (metrics[protocol]["test"] for metrics in (popularity, run.metrics()))
        assert found["targets"] == floor["targets"] and floor["ndcg@10"] > 0.1
        assert found["ndcg@10"] > floor["ndcg@10"] + MARGIN, protocol
