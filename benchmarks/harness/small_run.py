"""A run directory with a table of any size, for benchmarks of what comes after training: nothing in it is trained."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.common.distributed import barrier, rank
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.manifest import SESSIONS, VOCABULARY, Manifest
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import build_model
from skipwise.training.checkpoint.checkpoints import Checkpoints
from skipwise.training.checkpoint.state import model_tensors
from skipwise.training.config import RunConfig
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.position import Position
from skipwise.training.run.start import begin_run

RECIPE = "best"
LONGEST = 12
_SESSIONS = 1000
_PART = "part-00000.parquet"


def make_run(folder: Path, tracks: int, dim: int, seed: int) -> RunDirectory:
    """Writes `folder / data` and `folder / run` with the weights training starts from. All ranks call it together."""
    if rank() == 0:
        write_data(folder / "data", tracks, seed)
    barrier()
    config = run_config(folder, dim, seed)
    store = SessionStore(config.data.path)
    run = begin_run(config, RECIPE, store)
    checkpoints, begun = Checkpoints(run.path, keep=1, facts={}), Position()
    checkpoints.save(model_tensors(build_model(config, tracks)), replace(begun, best_checkpoint=begun.name))
    checkpoints.close()
    return run


def run_config(folder: Path, dim: int, seed: int) -> RunConfig:
    """The recipe at another width, asking for no more tracks than a small table has."""
    recipe = RECIPES[RECIPE]()
    return replace(
        recipe,
        run_dir=str(folder / "run"),
        data=replace(recipe.data, path=str(folder / "data"), negatives=1, workers=0),
        table=replace(recipe.table, dim=dim, sharding="row_wise"),
        encoder=replace(recipe.encoder, heads=math.gcd(dim, recipe.encoder.heads)),
        train=replace(recipe.train, seed=seed),
        evaluate=replace(recipe.evaluate, candidates=1),
    )


def write_data(folder: Path, tracks: int, seed: int) -> None:
    """A dataset directory of 1,000 random sessions."""
    (folder / SESSIONS).mkdir(parents=True)
    random = np.random.default_rng(seed)
    lengths = random.integers(3, LONGEST + 1, _SESSIONS)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    plays = int(lengths.sum())
    rows = random.integers(0, tracks, plays, dtype=np.int32)
    strengths = random.integers(0, 4, plays, dtype=np.int8)
    sessions = {
        "session_id": [f"s{number:04}" for number in range(_SESSIONS)],
        "tracks": pa.ListArray.from_arrays(offsets, pa.array(rows)),
        "skips": pa.ListArray.from_arrays(offsets, pa.array(strengths)),
    }
    pq.write_table(pa.table(sessions), folder / SESSIONS / _PART)
    identities = [f"t{row:08}" for row in range(tracks)]
    vocabulary = {
        "track_id": identities,
        "row": np.arange(tracks, dtype=np.int32),
        "count": np.bincount(rows, minlength=tracks),
    }
    pq.write_table(pa.table(vocabulary), folder / VOCABULARY, compression="zstd", row_group_size=1 << 20)
    Manifest(
        counts={"sessions": _SESSIONS, "plays": plays, "tracks": tracks},
        session_lengths={"min": int(lengths.min()), "max": int(lengths.max())},
        skip_share=float(np.isin(strengths, (1, 2)).mean()),
        context_columns=[],
        parts={_PART: _SESSIONS},
        vocabulary_hash=hashlib.sha256("".join(f"{track}\n" for track in identities).encode()).hexdigest(),
        sources=[],
        options={},
        dropped_sessions={},
        dropped_rows={},
        versions={},
    ).write(folder)
