"""Small trained runs and their exports, made once for all tests of this folder."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipwise.components.export import export
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.export.config import ExportConfig
from skipwise.training.build import build_model, reading_inputs, table_weight
from skipwise.training.checkpoint.checkpoints import Checkpoints, load_best
from skipwise.training.checkpoint.state import model_tensors
from skipwise.training.config import RunConfig
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.position import Position
from skipwise.training.run.start import create_or_resume_run
from tests.conftest import random_sessions, write_dataset
from tests.ranks import run_on_ranks

TRACKS, DIM, LONGEST = 203, 16, 12
DIRECTIONS = {"unidirectional": "best-skip-blind", "bidirectional": "bidir"}


def small(recipe: str, folder: Path, **table) -> RunConfig:
    config = RECIPES[recipe]()
    return replace(
        config,
        run_dir=str(folder / f"run-{recipe}-{'-'.join(table.values())}"),
        data=replace(config.data, path=str(folder / "data"), batch_size=16, lanes=4, negatives=30, workers=0),
        table=replace(config.table, dim=DIM, **table),
        encoder=replace(config.encoder, heads=2, hidden=16, max_length=LONGEST),
        train=replace(config.train, epochs=2),
        evaluate=replace(config.evaluate, candidates=50),
    )


def trained_table(run_path: str) -> torch.Tensor:
    """The checkpoint's table, whole, on the one rank that runs this."""
    run = RunDirectory.open(run_path)
    model = build_model(run.config, TRACKS)
    load_best(model, run.path)
    return table_weight(model).local_shards()[0].tensor.clone()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A data set, a run of each direction, the table of each, and their exports from 1 and from 2 ranks."""
    folder = tmp_path_factory.mktemp("export")
    write_dataset(folder / "data", random_sessions(90, TRACKS, LONGEST), TRACKS)
    for direction, recipe in DIRECTIONS.items():
        config = small(recipe, folder)
        run_on_ranks(folder, 1, train_quietly, config, recipe)
        os.rename(config.run_dir, folder / direction)
        torch.save(run_on_ranks(folder, 1, trained_table, str(folder / direction))[0], folder / f"{direction}.pt")
        for ranks in (1, 2):
            run_on_ranks(folder, ranks, export, ExportConfig(str(folder / direction), folder / f"{direction}-{ranks}"))
    return folder


def train_quietly(config: RunConfig, recipe: str) -> None:
    train(config, recipe)


def save_untrained(config: RunConfig) -> None:
    store = reading_inputs(config, SessionStore(config.data.path))
    checkpoints = Checkpoints(create_or_resume_run(config, "best", store).path, keep=1, facts={})
    tensors = model_tensors(build_model(config, store.num_tracks, contexts=store.contexts))
    checkpoints.save(tensors, Position(best_checkpoint=Position().name))
    checkpoints.close()
