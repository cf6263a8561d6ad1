"""`compare A.json B.json`: whether B is slower than A by more than the runs' own noise, or counts more."""

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat

from skipwise.benchmarks.harness.benchmark_report import SCHEMA_VERSION, table
from skipwise.benchmarks.harness.config import CompareConfig
from skipwise.common.errors import UserError
from skipwise.common.files import read_json
from skipwise.common.schema import validate

RESAMPLES = 10_000
CONFIDENCE = 0.99


class _Made(BaseModel):
    machine: dict[str, Any]


class BenchmarkReport(BaseModel):
    """What `compare` reads of a report; other fields are the benchmark's own."""

    schema_version: int = SCHEMA_VERSION
    benchmark: str
    config: dict[str, Any]
    made: _Made
    samples: dict[str, Annotated[list[PositiveFloat], Field(min_length=1)]]
    counts: dict[str, NonNegativeInt] = {}


def measure(config: CompareConfig) -> None:
    """Prints a verdict for each figure; exit code 1 where one is a regression."""
    before, after = _read(config.before), _read(config.after)
    if before.benchmark != after.benchmark:
        raise UserError(
            f"{config.after} is of the benchmark '{after.benchmark}' and {config.before} of "
            f"'{before.benchmark}': name two reports of the same"
        )
    rows = judged(before, after, config.tolerance)
    if not rows:
        raise UserError(
            f"{config.before} and {config.after} have no figure in common: name reports of runs with the same options"
        )
    print("\n".join(table(["figure", "before", "after", "change", "verdict"], rows)))
    changed = [name for name, value in before.config.items() if name in after.config and after.config[name] != value]
    if changed:
        print(f"The two runs differ in their options: {', '.join(changed)}.")
    if before.made.machine != after.made.machine:
        print("The two runs were made on different machines.")
    if any(row[-1] == "regression" for row in rows):
        sys.exit(1)


def judged(before: BenchmarkReport, after: BenchmarkReport, tolerance: float) -> list[list[str]]:
    """For each figure that both reports have: its name, both values, the change and the verdict."""
    rows = []
    for name in [name for name in before.samples if name in after.samples]:
        verdict, change, low, high = judge(before.samples[name], after.samples[name], tolerance)
        medians = [f"{np.median(report.samples[name]):.3g}" for report in (before, after)]
        rows.append([name, *medians, f"{100 * change:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]", verdict])
    for name in [name for name in before.counts if name in after.counts]:
        old, new = before.counts[name], after.counts[name]
        verdict = (
            "regression"
            if new > (1 + tolerance) * old
            else "better"
            if new < (1 - tolerance) * old
            else "no difference beyond the tolerance"
        )
        rows.append([name, f"{old:,}", f"{new:,}", f"{100 * (new / max(old, 1) - 1):+.1f} %", verdict])
    return rows


def judge(before: list[float], after: list[float], tolerance: float) -> tuple[str, float, float, float]:
    """(verdict, change of the median, its interval) of a figure of which more is better; shares of `before`.

    The interval is a percentile bootstrap of both runs' rounds. A verdict needs all of it beyond `tolerance`.
    """
    random = np.random.default_rng(0)
    medians = [
        np.median(random.choice(np.asarray(values), (RESAMPLES, len(values))), axis=1) for values in (before, after)
    ]
    low, high = np.quantile(medians[1] / medians[0] - 1, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    change = float(np.median(after) / np.median(before) - 1)
    verdict = "regression" if high < -tolerance else "better" if low > tolerance else "no difference beyond the noise"
    return verdict, change, float(low), float(high)


def _read(path: str) -> BenchmarkReport:
    content = read_json(Path(path), "the JSON of a benchmark's report")
    return validate(BenchmarkReport, content, Path(path), "run the benchmark again")
