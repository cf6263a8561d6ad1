"""`checkpoint`: how long training pauses for a checkpoint, and how long writing and reading take, against torch.save.

`pause` is the call that training makes: it waits for a copy of all tensors. `write` ends when the checkpoint is
published: files written, synced to the disk, read back from it, renamed. `read` checks every file's hash and loads it.
Plain is a blocking `torch.save` of the same tensors, each rank its own, synced to the disk, and `torch.load`.
"""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import CheckpointBenchmarkConfig
from skipwise.benchmarks.harness.timing import Times, ratios, timed
from skipwise.benchmarks.harness.untrained_run import run_config, shared_folder
from skipwise.common.distributed import rank, world_size
from skipwise.training.build import build_model
from skipwise.training.checkpoint.checkpoints import Checkpoints, load_tensors, open_checkpoint
from skipwise.training.checkpoint.state import Tensors, local_tensors, training_tensors
from skipwise.training.optimizer import make_optimizer
from skipwise.training.run.directory import CHECKPOINTS
from skipwise.training.run.position import Position


def measure(config: CheckpointBenchmarkConfig) -> Report:
    """Writes and reads checkpoints, in turn with plain."""
    with shared_folder() as folder:
        recipe = run_config(folder, config.dim)
        model = build_model(recipe, config.tracks)
        tensors = training_tensors(model, make_optimizer(model, recipe.optimizer))
        checkpoints = Checkpoints(folder, keep=1, facts={})
        checkpoints.prepare(tensors)
        rounds = []
        for number in range(config.warmup + config.rounds):
            position = Position(step=number)
            path, plain = folder / CHECKPOINTS / position.name, folder / f"{rank()}.pt"
            local = {name: local_tensors(tensor) for name, tensor in tensors.items()}
            pause = timed(partial(checkpoints.save, tensors, position))
            elapsed = {
                "pause": pause,
                "write": pause + timed(checkpoints.wait),
                "plain write": timed(partial(_save, plain, local)),
                "read": timed(partial(_read, tensors, path)),
                "plain read": timed(partial(_load, plain, local)),
            }
            rounds.append(elapsed)
        checkpoints.close()
    times = {name: Times(tuple(of[name] for of in rounds[config.warmup :])) for name in rounds[0]}
    return _report(config, times, size=sum(4 * math.prod(tensor.shape) for tensor in tensors.values()))


def _save(file: Path, tensors: dict[str, list[torch.Tensor]]) -> None:
    with open(file, "wb") as target:
        torch.save(tensors, target)
        target.flush()
        os.fsync(target.fileno())


def _load(file: Path, tensors: dict[str, list[torch.Tensor]]) -> None:
    for name, pieces in torch.load(file).items():
        for live, piece in zip(tensors[name], pieces, strict=True):
            live.copy_(piece)


def _read(tensors: Tensors, path: Path) -> None:
    load_tensors(tensors, path, open_checkpoint(path))


def _report(config: CheckpointBenchmarkConfig, times: dict[str, Times], size: int) -> Report:
    pairs = zip(times["pause"].seconds, times["write"].seconds, strict=True)
    shares = sorted(pause / whole for pause, whole in pairs)
    figures: dict[str, Any] = {
        "bytes": size,
        "pause_share": {"p50": shares[len(shares) // 2], "worst": shares[-1]},
        "write_gb_per_s": size / 1e9 / times["write"].p50,
        "read_gb_per_s": size / 1e9 / times["read"].p50,
        "pause_ratio": times["plain write"].p50 / times["pause"].p50,
        "seconds": {name: of.seconds for name, of in times.items()},
    }
    rows = [[name, f"{of.p50:.3f}", f"{of.p90:.3f}", f"{size / 1e9 / of.p50:.2f}"] for name, of in times.items()]
    return Report(
        name="checkpoint",
        title=f"Checkpoint of {config.tracks:,} tracks x {config.dim} on {world_size()} rank{'s' * (world_size() > 1)}",
        figures=figures,
        samples={
            "pause": list(ratios(times["pause"], times["plain write"])),
            "write": list(ratios(times["write"], times["plain write"])),
            "read": list(ratios(times["read"], times["plain read"])),
        },
        header=["part", "s P50", "P90", "GB/s"],
        rows=rows,
        notes=[
            f"The pause is {figures['pause_share']['p50']:.1%} of the write (median; worst {shares[-1]:.1%}), and "
            f"{figures['pause_ratio']:.1f} times shorter than a blocking torch.save.",
            "Nothing is trained meanwhile: on a CPU, the writing thread takes its share of the cores from the steps.",
        ],
    )
