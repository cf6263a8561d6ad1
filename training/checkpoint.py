"""The best weights, sharded on disk: each rank writes its own rows, any number of ranks reads them back."""

import os
import shutil
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torchrec.distributed.model_parallel import DistributedModelParallel

from datapipes.errors import UserError
from training.distributed import barrier, rank

BEST = "checkpoint"


def save_best(model: DistributedModelParallel, run_path: Path) -> None:
    """Writes the weights aside and publishes them by rename, in place of the best before."""
    aside, target, old = (run_path / name for name in (f".{BEST}.partial", BEST, f".{BEST}.old"))
    if rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    barrier()
    dcp.save({"model": model.state_dict()}, checkpoint_id=str(aside))
    barrier()
    if rank() == 0:
        if target.exists():
            os.replace(target, old)
        os.replace(aside, target)
        shutil.rmtree(old, ignore_errors=True)
    barrier()


def load_best(model: DistributedModelParallel, run_path: Path) -> None:
    """Reads the best weights into `model`, in place, from any number of ranks."""
    state = {"model": model.state_dict()}
    try:
        dcp.load(state, checkpoint_id=str(run_path / BEST))
    except (CheckpointException, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{run_path / BEST} cannot be read ({reason}): train again or choose another --run") from error
    model.load_state_dict(state["model"])
