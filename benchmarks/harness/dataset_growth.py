"""What datasets of more and more sessions cost: reading an epoch of each, and some training steps, by processes of
their own, so that none finds what another has loaded."""

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from skipwise.benchmarks.harness.benchmark_report import Report, table
from skipwise.benchmarks.harness.fitted_line import Line
from skipwise.benchmarks.harness.timing import resident_peak_bytes, timed
from skipwise.benchmarks.harness.untrained_run import shared_folder
from skipwise.benchmarks.harness.written_dataset import write_dataset
from skipwise.common.distributed import logger, process_group
from skipwise.common.errors import UserError
from skipwise.common.machine import free_disk
from skipwise.common.product_precision import set_product_precision
from skipwise.datapipes.manifest import SESSIONS_PER_ROW_GROUP
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import build_model, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer

BATCH = 256
STEPS, WARMUP = 20, 5
"""Training steps that are timed, and those before them."""
_BYTES_A_SESSION = 100
"""More than a session of up to 20 tracks takes on the disk."""
_HEADER = ["sessions", "s P50", "CPU s P50", "sessions/s", "µs CPU a session", "peak MiB", "ms a step", "with it MiB"]


@dataclass(frozen=True)
class Reading:
    """What one process measured of a dataset."""

    sessions: int
    """Those that it has read."""
    seconds: float
    """To open the dataset, to count the plays of its tracks and to make one epoch's batches, on one thread."""
    cpu_seconds: float
    """User and system time of the same."""
    peak_bytes: int
    """Of the process, from its start to the epoch's end."""
    step_seconds: list[float]
    """Of training steps afterwards, their batches included."""
    training_peak_bytes: int
    """Of the process, with them."""


def read_datasets(run: RunConfig, sizes: Sequence[int], tracks: int, readings: int) -> dict[int, list[Reading]]:
    """Writes a dataset of each size and starts processes that read them, in turn.

    Raises `UserError` where the disk lacks room, or a process ends before it has measured.
    """
    with shared_folder() as folder:
        needed, free = sum(sizes) * _BYTES_A_SESSION, free_disk(folder)
        if free is not None and needed > free:
            raise UserError(
                f"--sessions take up to {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f}: name another "
                "disk in TMPDIR, or ask for fewer"
            )
        for size in sizes:
            logger.info(f"writing {size:,} sessions")
            write_dataset(folder / str(size), tracks, size, run.encoder.max_length)
        found: dict[int, list[Reading]] = {size: [] for size in sizes}
        for _ in range(readings):
            for size, of in found.items():
                logger.info(f"reading {size:,} sessions")
                of.append(_in_a_process(replace(run, data=replace(run.data, path=str(folder / str(size))))))
    return found


def _in_a_process(run: RunConfig) -> Reading:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(read_and_train, run).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"the process that reads {Path(run.data.path).name} sessions was killed, perhaps for lack of memory: "
                "ask for smaller --tracks"
            ) from error


def read_and_train(run: RunConfig) -> Reading:
    """Reads an epoch of the dataset as a data worker does, then trains for some steps."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # of a torchrun that this process is no rank of
        os.environ.pop(name, None)
    with process_group():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        wall, cpu = time.perf_counter(), time.process_time()
        store = SessionStore(run.data.path)
        loader = train_loader(run, store)
        sessions = sum(int((batch.session_B >= 0).sum()) for batch in loader.epoch(1))
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        peak = resident_peak_bytes()
        torch.set_num_threads(threads)
        set_product_precision(run.train.matmul)
        trainer = Trainer(run, build_model(run, store.num_tracks).train(), total_steps=1 << 20)
        batches = chain.from_iterable(loader.epoch(epoch) for epoch in count(2))
        steps = [timed(lambda: trainer.step(batches)) for _ in range(WARMUP + STEPS)]
        return Reading(sessions, seconds, cpu_seconds, peak, steps[WARMUP:], resident_peak_bytes())


@dataclass(frozen=True)
class Growth:
    """Medians of the processes of each size, and the lines through them."""

    sizes: list[int]
    wall_s: list[float]
    cpu_s: list[float]
    peak_mib: list[float]
    training_mib: list[float]
    step_ms: list[float]

    @classmethod
    def of(cls, found: Mapping[int, list[Reading]]) -> "Growth":
        """Of each size's readings; the most memory of any."""
        sizes = sorted(found)
        return cls(
            sizes,
            [float(np.median([one.seconds for one in found[size]])) for size in sizes],
            [float(np.median([one.cpu_seconds for one in found[size]])) for size in sizes],
            [max(one.peak_bytes for one in found[size]) / 2**20 for size in sizes],
            [max(one.training_peak_bytes for one in found[size]) / 2**20 for size in sizes],
            [1000 * float(np.median([one.step_seconds for one in found[size]])) for size in sizes],
        )

    @property
    def lines(self) -> dict[str, Line]:
        """Through the seconds by the clock and of the CPU."""
        return {
            name: Line.through(self.sizes, s, relative=True) for name, s in (("wall", self.wall_s), ("CPU", self.cpu_s))
        }

    def notes(self, run: RunConfig) -> list[str]:
        """A table, the lines and what memory does."""
        rows = [
            [f"{size:,}", f"{wall:.2f}", f"{cpu:.2f}", f"{size / wall:,.0f}", f"{1e6 * cpu / size:.2f}"]
            + [f"{peak:,.0f}", f"{step:.1f}", f"{training:,.0f}"]
            for size, wall, cpu, peak, step, training in zip(
                self.sizes, self.wall_s, self.cpu_s, self.peak_mib, self.step_ms, self.training_mib, strict=True
            )
        ]
        kept = (run.data.lanes + 1) * run.data.shuffle_groups * SESSIONS_PER_ROW_GROUP
        notes = ["", *table(_HEADER, rows), ""]
        for name, line in self.lines.items():
            far = line.farthest(self.sizes, self.wall_s if name == "wall" else self.cpu_s)
            notes.append(
                f"An epoch takes {line.intercept:.3f} s + {1e6 * line.slope:.2f} µs a session ({name}); "
                f"no size is further than {100 * far:.0f} % from that line."
            )
        notes += [
            f"{size:,} sessions take {here / before:.3f} x the memory of {smaller:,}."
            for smaller, size, before, here in zip(
                self.sizes, self.sizes[1:], self.peak_mib, self.peak_mib[1:], strict=False
            )
        ]
        notes.append(
            f"Up to {kept:,} sessions are in memory: {run.data.lanes + 1} windows of {run.data.shuffle_groups} row "
            "groups."
        )
        return notes


def add_growth(report: Report, found: Mapping[int, list[Reading]], run: RunConfig) -> None:
    """Adds the readings to a report: their table and lines, and what `compare` judges, the rate of each size as a
    share of the smallest one's, by CPU time."""
    growth = Growth.of(found)
    report.notes += growth.notes(run)
    report.figures["datasets"] = [asdict(one) for size in growth.sizes for one in found[size]]
    report.figures["epoch_seconds"] = {name: asdict(line) for name, line in growth.lines.items()}
    first: Any = found[growth.sizes[0]]
    for size in growth.sizes[1:]:
        report.samples[f"rate on {size:,} : {growth.sizes[0]:,} sessions"] = [
            (one.sessions / one.cpu_seconds) / (base.sessions / base.cpu_seconds)
            for one, base in zip(found[size], first, strict=True)
        ]


def draw_growth(axes: Axes, found: Mapping[int, list[Reading]]) -> None:
    """Seconds of an epoch over sessions with the fitted lines, and the process's peak memory on an axis of its own."""
    growth = Growth.of(found)
    x = np.geomspace(growth.sizes[0], growth.sizes[-1], 50)
    for name, seconds in (("wall", growth.wall_s), ("CPU", growth.cpu_s)):
        (points,) = axes.plot(growth.sizes, seconds, "o", label=f"{name} s")
        axes.plot(x, [growth.lines[name].at(size) for size in x], color=points.get_color(), linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="sessions of the dataset", ylabel="s an epoch's reading")
    beside = axes.twinx()
    beside.plot(growth.sizes, growth.peak_mib, "s--", color="0.4", label="peak MiB")
    beside.set(ylabel="peak memory, MiB", ylim=(0, 1.3 * max(growth.peak_mib)))
    axes.grid(alpha=0.3)
    handles = [one.get_legend_handles_labels() for one in (axes, beside)]
    axes.legend(*(left + right for left, right in zip(*handles, strict=True)), loc="lower right")
