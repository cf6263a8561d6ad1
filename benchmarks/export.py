"""`export`: bytes of embeddings exported for retrieval per second, against `numpy.save` of the same rows in float32.

`export` is all that the command does after its imports: it reads the checkpoint, writes the parts, reads
them back and compares, takes checksums, traces the encoder and compares it with the model. `write` and `check` are the
first write and the reading back with its checksum, alone. Nothing is forced to the disk on either side (no fsync), so
the figures are those of the page cache where memory is ample. A GB is 10^9 bytes of the table, float32 as it is
trained, whatever it is written as.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import ExportBenchmarkConfig
from skipwise.benchmarks.harness.timing import Times, alternate, ratios
from skipwise.benchmarks.harness.untrained_run import make_run, shared_folder
from skipwise.common.distributed import logger, rank, world_size
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.models.rows import own_rows
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.retrieval.export.parts import TableRows, check_part, checked, write_part
from skipwise.retrieval.formats import PartFormat
from skipwise.training.build import build_model, table_weight
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.run.directory import RunDirectory

_CASES = ("export", "write", "check")


def measure(config: ExportBenchmarkConfig) -> Report:
    """Makes a run and exports it again and again, in turn with plain."""
    kind = PartFormat(config.format, config.dtype)
    kind.check()
    with shared_folder() as folder:
        cases = _cases(make_run(folder, config.tracks, config.dim), folder, kind)
        logger.disabled = True  # every export logs a line
        try:
            times = alternate(cases, config.rounds, config.warmup)
        finally:
            logger.disabled = False
    return _report(config, times)


def _cases(run: RunDirectory, folder: Path, kind: PartFormat) -> dict[str, Callable[[], object]]:
    """On each rank, its own rows; they are what `write_export` reads for itself."""
    store = run.open_store()
    model = build_model(run.config, store.num_tracks)
    load_best(model, run.path)
    rows = TableRows(Vocabulary.of(store), *own_rows(table_weight(model), rank(), world_size()))
    part, plain = folder / f"{rank()}.{kind.format}", folder / f"plain-{rank()}.npy"

    return {
        "export": lambda: write_export(ExportConfig(str(run.path), folder / "export", True, kind.format, kind.dtype)),
        "write": lambda: write_part(part, rows, kind),
        "check": lambda: checked(folder, part.name, lambda file: check_part(file, rows, kind)),
        "plain": lambda: np.save(plain, rows.rows_RD.cpu().numpy()),
    }


def _report(config: ExportBenchmarkConfig, times: dict[str, Times]) -> Report:
    gigabytes = 4 * config.tracks * config.dim / 1e9
    plain = times["plain"]
    figures = {
        name: {
            "gb_per_s": gigabytes / times[name].p50,
            "plain_gb_per_s": gigabytes / plain.p50,
            "ratio": plain.p50 / times[name].p50,
        }
        for name in _CASES
    }
    rows = [
        [name, *(f"{value:.2f}" for value in [*figures[name].values(), times[name].p50, times[name].p90])]
        for name in _CASES
    ]
    what = f"{config.tracks:,} tracks x {config.dim} as {config.format} {config.dtype}"
    return Report(
        name="export",
        title=f"Export of {what} on {world_size()} rank{'s' * (world_size() > 1)}",
        figures=figures | {"seconds": {name: of.seconds for name, of in times.items()}},
        samples={
            "ratio": list(ratios(times["export"], plain)),
            "write_ratio": list(ratios(times["write"], plain)),
        },
        header=["part", "GB/s", "plain GB/s", "x plain", "s P50", "P90"],
        rows=rows,
        notes=[
            "Plain is numpy.save of each rank's float32 rows, without ids, checks, encoder, manifest; no side fsyncs.",
            "'write' and 'check' are parts of 'export', each timed alone.",
        ],
    )
