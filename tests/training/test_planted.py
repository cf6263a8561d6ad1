"""Skips planted by `synthesize`: each option finds the signal that is there for it, and shuffled flags lose it.

Figures of three seeds beside each bound, and what the best can be (`skipwise.datapipes.synthesize`).
"""

from dataclasses import replace

import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.components.recipes import named_recipe
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize
from skipwise.training.build import HeldOut, build_model, train_loader, training_data
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.trainer import Trainer, seed_dropout

SEED = 0


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """`planted(rule)` is a dataset of 1,200 sessions of 4 clusters of 50 equally popular tracks, split by sessions."""
    made: dict[str, str] = {}

    def make(rule: str) -> str:
        if rule not in made:
            folder = tmp_path_factory.mktemp(rule)
            log = folder / "log.parquet"
            synthesize(SynthesizeConfig(log, 1_200, 200, SEED, clusters=4, zipf=0, planted=rule))
            prepare(PrepareConfig(input=(log,), output=folder / "data", split="session"))
            made[rule] = str(folder / "data")
        return made[rule]

    return make


def config_of(recipe: str, path: str, data: dict, loss: dict) -> RunConfig:
    """A small model."""
    config = named_recipe(recipe)
    data = {"path": path, "batch_size": 64, "lanes": 4, "workers": 0, "negatives": 20} | data
    return replace(
        config,
        data=replace(config.data, **data),
        table=replace(config.table, dim=16, learning_rate=0.3),
        encoder=replace(config.encoder, blocks=1, heads=2, hidden=16, dropout=0.1),
        loss=replace(config.loss, **loss),
        optimizer=replace(config.optimizer, learning_rate=5e-3),
        train=replace(config.train, seed=SEED),
    )


def trained(config: RunConfig, store: SessionStore, epochs: int) -> Evaluator:
    """Of a model after a few epochs, on one thread; within a process group."""
    torch.set_num_threads(1)
    model = build_model(config, store.num_tracks, contexts=store.contexts)
    loader = train_loader(config, *training_data(store))
    trainer = Trainer(config, model, epochs * loader.steps)
    for epoch in range(1, epochs + 1):
        batches = loader.epoch(epoch)
        for step in range(loader.steps):
            seed_dropout(config.train.seed, epoch, step)
            trainer.step(batches)
        trainer.detach()
    return Evaluator(config, model)


def learned(recipe: str, path: str, data: dict | None = None, loss: dict | None = None, epochs: int = 6) -> dict:
    """The metrics of the test sessions after a few epochs."""
    config = config_of(recipe, path, data or {}, loss or {})
    store = SessionStore(path)
    with process_group():
        held_out = HeldOut.of(config.evaluate, store, "test")
        return trained(config, store, epochs).measure(("full",), "test", held_out, 0)["full"]


def test_content_is_found_by_the_keep_head_alone(planted):
    """AUC .78, .82, .81, .81 of .904 after 10 epochs; .54, .56, .50 with the flags it learns from shuffled."""
    path = planted("content")
    assert learned("keep", path, epochs=10)["next_skip_auc"] > 0.74
    assert learned("keep", path, {"skip_flags": "shuffled-label"}, epochs=10)["next_skip_auc"] < 0.6


def test_state_is_found_by_skips_that_are_read_alone(planted):
    """AUC .80, .79, .81 of .80; without them, or with flags shuffled as input or as label, .48 to .52."""
    path = planted("state")
    assert learned("inputs-keep", path)["next_skip_auc"] > 0.77
    for recipe in ("keep", "shuffled-input", "shuffled-label"):
        assert 0.45 < learned(recipe, path)["next_skip_auc"] < 0.55


def test_pairs_are_ordered_by_skipped_negatives_alone(planted):
    """Of .894: .88, .88, .90 with them; .49, .35, .20 with the next kept track as the target and no more; .10, .11, .10
    with the next track; .08, .12, .10 with shuffled flags. (The keep head, apart from the ranking, has .88 to .91.)"""
    path = planted("pairs")
    found = {name: learned(name, path)["pairs_in_order"] for name in ("inputs-keep", "next-kept", "skipped-negatives")}
    assert found["inputs-keep"] < 0.2 < found["skipped-negatives"] - 0.65
    assert found["next-kept"] < found["skipped-negatives"] - 0.25
    assert learned("skipped-negatives", path, {"skip_flags": "shuffled"})["pairs_in_order"] < 0.2


def test_pairs_are_ordered_by_the_infonce(planted):
    """Of .894: .90, .88, .68 from the encoder's output, beside the next track as the target (.10, .12, .10 with flags
    shuffled). From the track .09, .11, .10; but .88, .87, .88 where the next kept track is the target."""
    path = planted("pairs")
    found = learned("output-contrast", path)["pairs_in_order"], learned("session-contrast", path)["pairs_in_order"]
    assert min(found) > 0.85
    for recipe, data, loss in (
        ("output-contrast", {"skip_flags": "shuffled-label"}, {}),
        ("output-contrast", {}, {"context": "track"}),
    ):
        assert learned(recipe, path, data, loss)["pairs_in_order"] < 0.2
