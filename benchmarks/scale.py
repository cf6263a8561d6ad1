"""`scale`: the training step over sizes of table and batch, and what either costs."""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from skipwise.benchmarks.harness.batches import TrainingSteps, run_config
from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import ScaleConfig
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.benchmarks.harness.timing import Times, alternate, ratios
from skipwise.common.distributed import device, world_size
from skipwise.common.errors import UserError
from skipwise.training.config import RunConfig

BATCHES = 4
"""Batches in memory for each case, used in turn."""
REFERENCE = 1_000_000
TARGET = 0.9
"""Least rate on ten times the reference's tracks, as a share of the reference's."""


Case = tuple[int, int]
"""Tracks and batch."""


def measure(config: ScaleConfig) -> Report:
    """Times every case."""
    runs = {
        (tracks, batch): run_config(config.step(tracks, batch))
        for batch in sorted(config.batches)
        for tracks in sorted(config.tracks)
    }
    for run in runs.values():
        run.data.check_world_size(world_size())
    check_memory(config)
    times: dict[Case, Times] = {}
    for batch in sorted(config.batches):
        times |= _times({case: run for case, run in runs.items() if case[1] == batch}, config)
        gc.collect()  # the tables, of which the pipeline's hooks hold references in cycles
    return make_report(config, times)


def _times(runs: dict[Case, RunConfig], config: ScaleConfig) -> dict[Case, Times]:
    cases = {
        (tracks, batch): TrainingSteps(run, MemoryStore(BATCHES * batch, tracks, run.encoder.max_length)).step
        for (tracks, batch), run in runs.items()
    }
    return alternate(cases, config.rounds, config.warmup)


def check_memory(config: ScaleConfig) -> None:
    """Raises `UserError` where the tables alone do not fit in memory together."""
    needed = sum(config.tracks) * config.dim * 4
    if device().type == "cuda":
        there = torch.cuda.mem_get_info()[1] * world_size()
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * there:
        raise UserError(
            f"--tracks are tables of {needed / 2**30:.1f} GiB together and the machine has {there / 2**30:.1f}: "
            "ask for fewer or smaller ones"
        )


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x."""

    intercept: float
    slope: float

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> "Line":
        """The line of least squares; level through a single point."""
        if len(x) < 2:
            return cls(float(np.mean(y)), 0.0)
        slope, intercept = np.polyfit(x, y, 1)
        return cls(float(intercept), float(slope))


def make_report(config: ScaleConfig, times: dict[Case, Times]) -> Report:
    """Rows by case, the fitted lines, and the rates' ratios to the reference size of the table."""
    sizes, batches = sorted(config.tracks), sorted(config.batches)
    reference = REFERENCE if REFERENCE in sizes else sizes[0]
    ms = {case: 1000 * of.p50 for case, of in times.items()}
    by_batch = {tracks: Line.through(batches, [ms[tracks, batch] for batch in batches]) for tracks in sizes}
    decades = [float(np.log10(tracks)) for tracks in sizes]
    by_tracks = {batch: Line.through(decades, [ms[tracks, batch] for tracks in sizes]) for batch in batches}
    rows = [
        [
            f"{tracks:,}",
            f"{batch:,}",
            f"{ms[tracks, batch]:.1f}",
            f"{1000 * times[tracks, batch].p90:.1f}",
            f"{1000 * batch / ms[tracks, batch]:,.0f}",
            f"{ms[reference, batch] / ms[tracks, batch]:.2f}",
        ]
        for tracks in sizes
        for batch in batches
    ]
    samples = {
        f"rate on {tracks:,} : {reference:,} tracks, batch {batch}": list(
            ratios(times[tracks, batch], times[reference, batch])
        )
        for tracks in sizes
        for batch in batches
        if tracks != reference
    }
    notes = [
        f"{tracks:,} tracks: {line.intercept:.1f} ms + {1000 * line.slope:.1f} µs a session."
        for tracks, line in by_batch.items()
    ] + [f"Batch {batch:,}: {line.slope:+.1f} ms for ten times the tracks." for batch, line in by_tracks.items()]
    for batch in batches:
        if reference == REFERENCE and (10 * REFERENCE, batch) in ms:
            ratio = ms[REFERENCE, batch] / ms[10 * REFERENCE, batch]
            notes.append(f"Batch {batch:,}: 10M tracks run at {ratio:.2f} x the rate of 1M (target: {TARGET} at 256).")
    figures = {
        "cases": [{"tracks": tracks, "batch": batch, "seconds": of.seconds} for (tracks, batch), of in times.items()],
        "ms_by_batch": {str(key): vars(line) for key, line in by_batch.items()},
        "ms_by_log10_tracks": {str(key): vars(line) for key, line in by_tracks.items()},
    }
    return Report(
        name="scale",
        title="Training step by table and batch",
        figures=figures,
        samples=samples,
        header=["tracks", "batch", "ms P50", "P90", "sessions/s", f"rate x {reference:,}"],
        rows=rows,
        notes=notes,
        draw=lambda figure: draw(figure, sizes, batches, ms, by_batch),
    )


def draw(figure: Figure, sizes: list[int], batches: list[int], ms: dict[Case, float], fits: dict[int, Line]) -> None:
    """Left: step over batch with the fitted lines; right: step over tracks."""
    left, right = figure.subplots(1, 2)
    for tracks in sizes:
        (points,) = left.plot(batches, [ms[tracks, batch] for batch in batches], "o", label=f"{tracks:,} tracks")
        x = np.geomspace(batches[0], batches[-1], 50)
        left.plot(x, fits[tracks].intercept + fits[tracks].slope * x, color=points.get_color(), linewidth=1)
    for batch in batches:
        right.plot(sizes, [ms[tracks, batch] for tracks in sizes], "o-", label=f"batch {batch:,}")
    for axes, name in ((left, "sessions of a batch"), (right, "tracks")):
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="ms a step")
        axes.grid(alpha=0.3)
        axes.legend()
