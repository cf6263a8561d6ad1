"""An untrained run with a table of any size, for benchmarks of what comes after training."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from skipwise.benchmarks.harness.config import LONGEST, SEED
from skipwise.benchmarks.harness.written_dataset import write_dataset
from skipwise.common.distributed import barrier, broadcast_object, rank
from skipwise.components.recipes import RECIPES
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


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A temporary directory that all ranks share, removed at the end. TMPDIR names the disk that it is on."""
    with tempfile.TemporaryDirectory() as own:
        yield Path(broadcast_object(own))
        barrier()


def make_run(folder: Path, num_tracks: int, dim: int) -> RunDirectory:
    """Writes `folder / data` and `folder / run` with initial weights. All ranks call it together."""
    if rank() == 0:
        write_dataset(folder / "data", num_tracks, _SESSIONS, LONGEST)
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
