"""`scale`: the training step over sizes of table and batch, the reading of datasets, and what each costs."""

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from skipwise.benchmarks.harness.batches import TrainingSteps, run_config
from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.dataset_growth import BATCH, Reading, add_growth, draw_growth, read_datasets
from skipwise.benchmarks.harness.fitted_line import Line
from skipwise.benchmarks.harness.scale_cases import ScaleConfig
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.benchmarks.harness.timing import Times, alternate, ratios
from skipwise.common.distributed import device, world_size
from skipwise.common.errors import UserError
from skipwise.components.recipes import DEFAULT
from skipwise.training.config import RunConfig

BATCHES = 4
"""Batches in memory for each case, used in turn."""
REFERENCE = 1_000_000
TARGET = 0.9
"""Least rate on ten times the reference's tracks, as a share of the reference's."""


Case = tuple[int, int]
"""Tracks and batch."""


def measure(config: ScaleConfig) -> Report:
    """Reads the datasets, then times every case."""
    runs = {
        (tracks, batch): _with_rows(config, run_config(config.step(tracks, batch)))
        for batch in sorted(config.batches)
        for tracks in sorted(config.tracks)
    }
    for run in runs.values():
        run.data.check_world_size(world_size())
    check_memory(config)
    readings: dict[int, list[Reading]] = {}
    if config.sessions:
        if world_size() > 1:
            raise UserError("--sessions are read by one process: start `scale` without torchrun, or leave them out")
        readings = read_datasets(reading_run(config), sorted(config.sessions), min(config.tracks), config.readings)
    times: dict[Case, Times] = {}
    cpu: dict[Case, list[float]] = {}
    for batch in sorted(config.batches):
        _time({case: run for case, run in runs.items() if case[1] == batch}, config, times, cpu)
        gc.collect()  # the tables, of which the pipeline's hooks hold references in cycles
    return make_report(config, times, cpu, readings)


def reading_run(config: ScaleConfig) -> RunConfig:
    """What reads the datasets: the default recipe, which counts the plays of tracks too."""
    return _with_rows(config, run_config(replace(config.step(min(config.tracks), BATCH), recipe=DEFAULT)))


def _with_rows(config: ScaleConfig, run: RunConfig) -> RunConfig:
    return replace(run, table=replace(run.table, precision=config.table_precision))


def _time(
    runs: dict[Case, RunConfig], config: ScaleConfig, times: dict[Case, Times], cpu: dict[Case, list[float]]
) -> None:
    """Adds the times of these cases, by the clock and of this process's CPUs."""
    cases = {
        (tracks, batch): TrainingSteps(run, MemoryStore(BATCHES * batch, tracks, run.encoder.max_length)).step
        for (tracks, batch), run in runs.items()
    }
    for case in cases:
        cpu[case] = []
    times |= alternate({case: _metered(step, cpu[case]) for case, step in cases.items()}, config.rounds, config.warmup)
    for case in cases:
        del cpu[case][: config.warmup]


def _metered(step: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """The same, which appends the user and system time of each call."""

    def call() -> None:
        before = time.process_time()
        step()
        seconds.append(time.process_time() - before)

    return call


def check_memory(config: ScaleConfig) -> None:
    """Raises `UserError` where the tables alone do not fit in memory together."""
    row = config.dim * (2 if config.table_precision == "fp16" else 4) + 4  # and the optimizer's number
    needed = sum(config.tracks) * row
    if device().type == "cuda":
        there = torch.cuda.mem_get_info()[1] * world_size()
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * there:
        smaller = "" if config.table_precision == "fp16" else ", or for --table-precision fp16"
        raise UserError(
            f"--tracks are tables of {needed / 2**30:.1f} GiB together and the machine has {there / 2**30:.1f}: "
            f"ask for fewer or smaller ones{smaller}"
        )


def make_report(
    config: ScaleConfig,
    times: dict[Case, Times],
    cpu: Mapping[Case, list[float]],
    readings: Mapping[int, list[Reading]],
) -> Report:
    """Rows by case, the fitted lines, and the rates' ratios to the reference size of the table; then the datasets.

    `cpu`: seconds of CPU of each step; `readings`: of each size of dataset, empty for none.
    """
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
            f"{1000 * float(np.median(cpu[tracks, batch])):.1f}",
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
    for tracks, batch in ((tracks, batch) for tracks in sizes for batch in batches if tracks > reference):
        ratio = ms[reference, batch] / ms[tracks, batch]
        of_cpu = float(np.median(cpu[reference, batch]) / np.median(cpu[tracks, batch]))
        notes.append(
            f"Batch {batch:,}: {tracks:,} tracks run at {ratio:.2f} x the rate of {reference:,}, {of_cpu:.2f} x by CPU "
            f"time (target: {TARGET} at 256)."
        )
    figures = {
        "cases": [
            {"tracks": tracks, "batch": batch, "seconds": of.seconds, "cpu_seconds": cpu[tracks, batch]}
            for (tracks, batch), of in times.items()
        ],
        "ms_by_batch": {str(key): vars(line) for key, line in by_batch.items()},
        "ms_by_log10_tracks": {str(key): vars(line) for key, line in by_tracks.items()},
    }
    parts = [config.table_precision] * (config.table_precision != "fp32") + ["sessions"] * bool(readings)
    report = Report(
        name="scale",
        variant="-".join(parts),
        title="Training step by table and batch" + ", and the reading of datasets" * bool(readings),
        figures=figures,
        samples=samples,
        header=["tracks", "batch", "ms P50", "P90", "CPU ms", "sessions/s", f"rate x {reference:,}"],
        rows=rows,
        notes=notes,
        draw=lambda figure: draw(figure, sizes, batches, ms, by_batch, readings),
    )
    if readings:
        add_growth(report, readings, reading_run(config))
    return report


def draw(
    figure: Figure,
    sizes: list[int],
    batches: list[int],
    ms: dict[Case, float],
    fits: dict[int, Line],
    readings: Mapping[int, list[Reading]],
) -> None:
    """Step over batch with the fitted lines, step over tracks, and the reading over a dataset's sessions if any."""
    left, right, *beside = figure.subplots(1, 3 if readings else 2)
    if beside:
        figure.set_size_inches(14, 4.5)
        draw_growth(beside[0], readings)
    for tracks in sizes:
        (points,) = left.plot(batches, [ms[tracks, batch] for batch in batches], "o", label=f"{tracks:,} tracks")
        x = np.geomspace(batches[0], batches[-1], 50)
        left.plot(x, [fits[tracks].at(size) for size in x], color=points.get_color(), linewidth=1)
    for batch in batches:
        right.plot(sizes, [ms[tracks, batch] for tracks in sizes], "o-", label=f"batch {batch:,}")
    for axes, name in ((left, "sessions of a batch"), (right, "tracks")):
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="ms a step")
        axes.grid(alpha=0.3)
        axes.legend()
