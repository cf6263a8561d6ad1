"""`pipeline`: sessions/s from Parquet to batches, beside a plain DataLoader, and how long training waits for them."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from skipwise.benchmarks.baselines.plain_pipe import Row, plain_loader, read_rows
from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import PipelineConfig
from skipwise.benchmarks.harness.timing import Times, alternate, ratios
from skipwise.benchmarks.harness.untrained_run import shared_folder
from skipwise.common.distributed import device, gather_rows, on_rank_0, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.product_precision import set_product_precision
from skipwise.components.recipes import DEFAULT, RECIPES
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize
from skipwise.training.build import build_model, train_loader
from skipwise.training.checks import check
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer

Batch = TypeVar("Batch")
TARGET_WAIT = 0.02
START = 10
"""Steps of each turn of training that fill the pipeline and the caches, and are not counted."""
AHEAD = 2
"""Batches that TorchRec's pipeline holds in flight; as many more are read, so that every step timed asks for one."""


def run_config(config: PipelineConfig, path: str) -> RunConfig:
    """The default recipe with these data and this batch; raises `UserError` for a batch that it refuses."""
    recipe = RECIPES[DEFAULT]()
    try:
        return replace(recipe, data=replace(recipe.data, path=path, batch_size=config.batch))
    except ValueError as error:
        raise UserError(f"--batch {config.batch} does not go with the recipe {DEFAULT}: {error}") from error


def measure(config: PipelineConfig) -> Report:
    """Times one epoch of each loader, and some training steps, in turn."""
    run_config(config, config.data)  # refuses before anything is written
    with dataset(config) as path:
        run = run_config(config, path)
        store = SessionStore(path)
        check(run, store)
        wanted = START + config.steps + AHEAD
        loader = train_loader(run, store)
        if loader.steps < wanted:
            raise UserError(
                f"{len(store)} sessions are {loader.steps} batches of --batch {config.batch}, and {wanted} are needed: "
                "raise --sessions or lower --steps or --batch"
            )
        set_product_precision(run.train.matmul)
        training = _TrainingSteps(run, store, config.steps)
        times = alternate(
            {
                "pipe, 0 workers": _epochs(run, store, 0),
                "pipe, 1 worker": _epochs(run, store, 1),
                "plain": lambda: _drain(_plain(run, store)),
                "plain, in memory": partial(_drain, _plain(run, store)),
                "training": training,
            },
            config.rounds,
            config.warmup,
        )
        return _report(config, store, times, training.measured(config.warmup))


@contextmanager
def dataset(config: PipelineConfig) -> Iterator[str]:
    """The dataset directory to read: the user's, or a temporary synthetic one."""
    if config.data:
        yield config.data
        return
    with shared_folder() as folder:

        def make() -> None:
            try:
                synthesize(SynthesizeConfig(folder / "log.parquet", config.sessions, config.tracks, names=False))
            except ValueError as error:
                raise UserError(str(error)) from error
            prepare(PrepareConfig(input=(folder / "log.parquet",), output=folder / "data"))

        on_rank_0(make)
        yield f"{folder}/data"


def _epochs(run: RunConfig, store: SessionStore, workers: int) -> Callable[[], None]:
    """A case that reads one epoch, a new one each time, from the first file opened to the last batch."""
    loader = train_loader(replace(run, data=replace(run.data, workers=workers)), store)
    numbers = count(1)
    return lambda: _drain(loader.epoch(next(numbers)))


def _plain(run: RunConfig, store: SessionStore) -> DataLoader[Row]:
    """The plain loader, its files read and decoded."""
    return plain_loader(run, read_rows(store, rank(), world_size()), store.num_tracks, world_size())


def _drain(batches: Iterable[object]) -> None:
    """Reads all batches on one thread, as a data worker does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in batches:
            pass
    finally:
        torch.set_num_threads(threads)


class _TrainingSteps:
    """A case that trains a few steps as the training loop does, and records how long they took and waited."""

    def __init__(self, run: RunConfig, store: SessionStore, steps: int):
        self._loader, self._steps = train_loader(run, store), steps
        total_steps = self._loader.steps * run.train.epochs
        self._trainer = Trainer(run, build_model(run, store.num_tracks).train(), total_steps)
        self._epochs = count(1)
        self._calls: list[list[float]] = []

    def __call__(self) -> None:
        waits: list[float] = []
        epoch = self._loader.epoch(next(self._epochs))
        losses = self._trainer.steps(timed_waits(islice(epoch, START + self._steps + AHEAD), waits))
        for loss in islice(losses, START):
            last = loss
        float(last.total)  # waits for the device
        before, began = sum(waits), time.perf_counter()
        for loss in islice(losses, self._steps):
            last = loss
        float(last.total)
        seconds = time.perf_counter() - began
        self._calls.append([seconds / self._steps, (sum(waits) - before) / seconds])
        for _ in losses:  # empties the pipeline
            pass

    def measured(self, warmup: int) -> torch.Tensor:
        """float64 [rounds, 2]: seconds of a step and the share of it that waited for data, the worst rank's."""
        calls_R2 = torch.tensor(self._calls[warmup:], dtype=torch.float64, device=device())
        return gather_rows(calls_R2[None]).amax(dim=0).cpu()


def timed_waits(batches: Iterator[Batch], waits: list[float]) -> Iterator[Batch]:
    """Yields the batches and appends the seconds that each was waited for to `waits`."""
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        waits.append(time.perf_counter() - began)
        if batch is None:
            return
        yield batch


def _report(config: PipelineConfig, store: SessionStore, times: dict[str, Times], trained_R2: torch.Tensor) -> Report:
    step_s, wait = trained_R2.median(dim=0).values.tolist()
    trains_per_s = config.batch / step_s
    pipe = times["pipe, 0 workers"]
    loaders = {name: case for name, case in times.items() if name != "training"}
    rows = [
        [name]
        + [f"{len(store) / seconds:,.0f}" for seconds in (case.p50, case.p90)]
        + [f"{case.p50 / len(store) * config.batch * 1000:.2f}", f"{times['plain'].p50 / case.p50:.2f}"]
        + [f"{len(store) / case.p50 / trains_per_s:.1f}"]
        for name, case in loaders.items()
    ]
    samples = {
        "pipe on one core / plain": list(ratios(pipe, times["plain"])),
        "pipe on one core / plain in memory": list(ratios(pipe, times["plain, in memory"])),
        "pipe with a worker / plain": list(ratios(times["pipe, 1 worker"], times["plain"])),
        "pipe on one core / training": [
            len(store) / seconds / (config.batch / step)
            for seconds, step in zip(pipe.seconds, trained_R2[:, 0].tolist(), strict=True)
        ],
        "share of a step that does not wait": (1 - trained_R2[:, 1]).tolist(),
    }
    figures = {
        "sessions": len(store),
        "tracks": store.num_tracks,
        "epoch_seconds": {name: case.seconds for name, case in loaders.items()},
        "step_seconds": trained_R2[:, 0].tolist(),
        "wait_share": trained_R2[:, 1].tolist(),
    }
    notes = [
        f"A training step of {config.batch} sessions takes {1000 * step_s:.1f} ms ({trains_per_s:,.0f} sessions/s) and "
        f"waits {100 * wait:.2f} % of that for data (target: under {100 * TARGET_WAIT:.0f} %).",
        f"{len(store):,} sessions over {store.num_tracks:,} tracks; each turn is one epoch from Parquet to batches, "
        "start of the worker included; 'plain, in memory' has read and decoded the files before.",
        "The plain loader checks no negative against its session and finds no distinct rows.",
    ]
    header = ["case", "sessions/s P50", "P90", "ms a batch", "x plain", "x training"]
    return Report("pipeline", "The data pipe", figures, samples, header, rows, notes)
