"""An untrained run with a table of any size, for benchmarks of what comes after training."""

import hashlib
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from skipwise.benchmarks.harness.config import LONGEST, SEED
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.common.distributed import barrier, broadcast_object, rank
from skipwise.common.tables import write_table
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.manifest import SESSIONS, VOCABULARY
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import build_model
from skipwise.training.checkpoint.checkpoints import Checkpoints
from skipwise.training.checkpoint.state import model_tensors
from skipwise.training.config import RunConfig
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.position import Position
from skipwise.training.run.start import create_or_resume_run

RECIPE = "best-skip-blind"
_SESSIONS = 1000
_PART = "part-00000.parquet"


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A temporary directory that all ranks share, removed at the end. TMPDIR names the disk that it is on."""
    with tempfile.TemporaryDirectory() as own:
        yield Path(broadcast_object(own))
        barrier()


def make_run(folder: Path, num_tracks: int, dim: int) -> RunDirectory:
    """Writes `folder / data` and `folder / run` with initial weights. All ranks call it together."""
    if rank() == 0:
        _write_data(folder / "data", num_tracks)
    barrier()
    config = run_config(folder, dim)
    store = SessionStore(config.data.path)
    run = create_or_resume_run(config, RECIPE, store)
    checkpoints, start = Checkpoints(run.path, keep=1, facts={}), Position()
    checkpoints.save(
        model_tensors(build_model(config, num_tracks)), start.model_copy(update={"best_checkpoint": start.name})
    )
    checkpoints.close()
    return run


def run_config(folder: Path, dim: int) -> RunConfig:
    """The recipe with rows of `dim` numbers; a table of a few tracks is enough for it."""
    recipe = RECIPES[RECIPE]()
    return replace(
        recipe,
        run_dir=str(folder / "run"),
        data=replace(recipe.data, path=str(folder / "data"), negatives=1, workers=0),
        table=replace(recipe.table, dim=dim, sharding="row_wise"),
        encoder=replace(recipe.encoder, heads=math.gcd(dim, recipe.encoder.heads)),
        train=replace(recipe.train, seed=SEED),
        evaluate=replace(recipe.evaluate, candidates=1),
    )


def _write_data(folder: Path, num_tracks: int) -> None:
    """A dataset directory of random sessions, with every track in its vocabulary."""
    (folder / SESSIONS).mkdir(parents=True)
    store = MemoryStore(_SESSIONS, num_tracks, LONGEST)
    plays = store.read(np.zeros(1, dtype=np.int64))
    offsets = pa.array(plays.offsets, pa.int32())
    sessions = {
        "session_id": [f"s{number:04}" for number in plays.numbers],
        "tracks": pa.ListArray.from_arrays(offsets, pa.array(plays.tracks, pa.int32())),
        "skips": pa.ListArray.from_arrays(offsets, pa.array(plays.skips)),
    }
    write_table(pa.table(sessions), folder / SESSIONS / _PART)
    ids = [f"t{row:08}" for row in range(num_tracks)]
    counts = np.bincount(plays.tracks, minlength=num_tracks)
    vocabulary = {"track_id": ids, "row": np.arange(num_tracks, dtype=np.int32), "count": counts}
    write_table(pa.table(vocabulary), folder / VOCABULARY, 1 << 20, compression="zstd")
    digest = hashlib.sha256("".join(f"{track}\n" for track in ids).encode()).hexdigest()
    store.manifest.model_copy(update={"parts": {_PART: _SESSIONS}, "vocabulary_hash": digest}).write(folder)
