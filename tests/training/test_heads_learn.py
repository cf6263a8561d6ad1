"""Each next-track head learns which track follows which, not only what is popular."""

from dataclasses import replace
from pathlib import Path

import pytest

from skipwise.common.distributed import process_group
from skipwise.components.recipes import named_recipe
from skipwise.training.loop import train
from tests.conftest import random_sessions

TRACKS = 200


@pytest.mark.parametrize("recipe", ["gbce", "in-batch", "heard-negatives"])
def test_it_ranks_far_better_than_popularity(recipe: str, make_dataset, tmp_path: Path):
    """Two thirds of the sessions walk from a track to its neighbour, so no track is popular: the ten most played of 200
    hold less than a tenth of the targets."""
    config = named_recipe(recipe)
    data = make_dataset(random_sessions(600, TRACKS), TRACKS)
    config = replace(
        config,
        run_dir=str(tmp_path / "run"),
        data=replace(
            config.data, path=str(data), batch_size=32, lanes=4, workers=0, negatives=min(config.data.negatives, 100)
        ),
        table=replace(config.table, dim=32, learning_rate=0.1),
        encoder=replace(config.encoder, heads=2, hidden=32, dropout=0.0),
        train=replace(config.train, epochs=5, patience=0),
        evaluate=replace(config.evaluate, candidates=100),
    )
    with process_group():
        run = train(config, recipe)
    assert run.metrics()["full"]["test"]["hr@10"] > 0.4
