"""A run that follows, for tests: its base run, parts with new tracks, and its config."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from skipwise.common.distributed import process_group
from skipwise.datapipes.manifest import Manifest
from skipwise.retrieval.export.delta_writer import DeltaWriter
from skipwise.training.config import RunConfig
from skipwise.training.follow.config import StreamConfig
from skipwise.training.follow.follow import follow
from skipwise.training.loop import train
from tests.conftest import random_sessions, write_dataset
from tests.training.test_train import config_of

TRACKS = 60
"""Tracks of the base run, and of each part."""


def write_part(folder: Path, first: int, count: int = 40, seed: int = 1) -> Path:
    """A part with the tracks from `first` on, in rows of its own; the last `first` of them are new to the base run."""
    write_dataset(folder, random_sessions(count, TRACKS, seed=seed), TRACKS)
    ids = [f"t_{row + first:05}" for row in range(TRACKS)]
    table = pq.read_table(folder / "vocabulary.parquet")
    pq.write_table(table.set_column(0, "track_id", [ids]), folder / "vocabulary.parquet")
    digest = hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()
    Manifest.read(folder).model_copy(update={"vocabulary_hash": digest}).write(folder)
    return folder


def base_run(folder: Path) -> RunConfig:
    """Trains `folder/run`, with a refit as the default recipe has it, and returns a config that goes on from it."""
    data = write_dataset(folder / "data", random_sessions(80, TRACKS), TRACKS)
    config = config_of(data, folder / "run", "best", epochs=2, refit=True)
    with process_group():
        train(config, "best", test=False)
    return replace(config, run_dir="", init_from=str(folder / "run"))


def following(config: RunConfig, run: Path, parts: Path | str, **stream) -> RunConfig:
    """`config` for a run that follows and ends when no part is left."""
    options = {"spare_rows": 16, "idle_s": 0.01, "poll_s": 0.01} | stream
    return replace(config, run_dir=str(run), follow=str(parts), stream=StreamConfig(**options))


def follow_parts(config: RunConfig) -> None:
    """Follows until no part is left, and writes deltas where the config says so."""
    stream = config.stream
    with process_group():
        follow(config, "best", DeltaWriter(stream.deltas, stream.deltas_kept) if stream.deltas else None)
