"""What `gpu-check` runs: sections, each in a process of its own with a limit of time, and the figures they leave."""

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from skipwise.common.files import read_json, write_text

SectionName = Literal["doctor", "tests", "step", "evaluate", "train"]
ROOT = Path(__file__).resolve().parents[2]
"""The repository: tests are there, and the sample."""
_LEAST_S = 5.0
_LINES = 40
"""Of a failed section's output, its last."""
_TABLE_OPTIMIZERS = ("rowwise_adagrad", "adam")
Figures = dict[str, Any]


@dataclass(frozen=True)
class GpuCheckConfig:
    """Run on a machine with a GPU what only such a machine can show, and write one JSON of it.

    Example: python -m skipwise.benchmarks gpu-check --output gpu-check.json --sections tests step
    """

    output: str = "gpu-check.json"
    """The JSON; it is written anew after every section."""
    sections: tuple[SectionName, ...] = get_args(SectionName)
    """What to run, in this order."""
    small: bool = False
    """Tiny sizes, to see that all of it works; the figures mean nothing."""
    limit_s: float = 1800.0
    """Seconds for all of it: what does not fit any more is left out, and counts as failed."""

    def __post_init__(self) -> None:
        if not self.sections:
            raise ValueError(f"--sections names none: choose from {', '.join(get_args(SectionName))}")
        if not self.limit_s > 0:
            raise ValueError(f"--limit-s {self.limit_s} must be positive")


@dataclass(frozen=True)
class Section:
    """One process."""

    name: str
    words: list[str]
    """Behind the interpreter."""
    limit_s: float
    figures: Callable[[], Figures]
    """Reads what the process has written, also where it failed; may raise."""


def sections_of(config: GpuCheckConfig, folder: Path, optimizers: tuple[str, ...] = _TABLE_OPTIMIZERS) -> list[Section]:
    """The sections to run; they write into `folder`. `optimizers`: of the table in `step`."""
    benchmarks, reports = ["-m", "skipwise.benchmarks"], ["--output", str(folder / "reports")]
    cases = step_cases(config.small, folder, optimizers)
    write_text(folder / "steps.txt", "".join(f"{' '.join(case)}\n" for case in cases.values()))
    evaluate = "--tracks 3000 --dim 16 --users 64 --rounds 1" if config.small else "--tracks 1000000 --dim 128"
    train = "--train.epochs 1 --table.dim 16 --evaluate.sessions 300 --selection.sessions 300 --train.no-refit"
    if not config.small:
        train = "--train.epochs 3 --train.precision bf16"
    pytest = ["-m", "pytest", "-q", "-m", "gpu", "--junitxml", str(folder / "tests.xml"), "tests/gpu"]
    found = [
        Section("doctor", ["-m", "skipwise", "doctor"], 60, dict),
        Section("tests", pytest, 240, lambda: figures_of_tests(folder / "tests.xml")),
        Section(
            "step",
            [*benchmarks[:1], "skipwise.benchmarks.harness.step_grid", str(folder / "steps.txt")],
            480,
            lambda: {"cases": [case_figures(name, folder) for name in cases]},
        ),
        Section(
            "evaluate",
            [*benchmarks, "evaluate", *evaluate.split(), *reports, "--json", str(folder / "evaluate.json")],
            120,
            lambda: read_json(folder / "evaluate.json", "a report"),
        ),
        Section(
            "train",
            ["-m", "skipwise", "train", "best", "--run-dir", str(folder / "run"), *train.split()],
            240,
            lambda: read_json(folder / "run" / "metrics.json", "a run's metrics"),
        ),
    ]
    return [section for section in found if section.name in config.sections]


def step_cases(small: bool, folder: Path, optimizers: tuple[str, ...]) -> dict[str, list[str]]:
    """By name, the options of each case of `step`: by batch, since those of a size share their batches.

    Plain runs beside one batch alone, as it takes a process of its own; the default recipe is one more case of it.
    """
    batches = (16, 32) if small else (256, 1024, 4096, 16384)
    size = ["--tracks", "2000", "--dim", "16", "--rounds", "1", "--warmup", "0"] if small else ["--rounds", "5"]
    cases = {}
    for batch in batches:
        middle = batch == batches[len(batches) // 2]
        kinds = [("unidir-skip-track", optimizer) for optimizer in optimizers] + [("best", "recipe")] * middle
        for recipe, optimizer in kinds:
            for precision in ("fp32", "bf16"):
                name = f"{recipe}-{optimizer}-{precision}-{batch}"
                plain = middle and optimizer == optimizers[0]
                options = ["--recipe", recipe, "--optimizer", optimizer, "--precision", precision, *size]
                options += ["--batch", str(batch), "--baseline", "plain" if plain else "none"]
                cases[name] = [*options, "--output", str(folder / "reports"), "--json", str(folder / f"{name}.json")]
    return cases


def case_figures(name: str, folder: Path) -> Figures:
    """A case's report, with its name; why there is none otherwise."""
    file = folder / f"{name}.json"
    return {"case": name} | (read_json(file, "a report") if file.exists() else {"failed": "it did not begin or end"})


def figures_of_tests(file: Path) -> Figures:
    """Counts and each test's outcome, of pytest's XML."""
    tests: list[Figures] = []
    for case in ElementTree.parse(file).iter("testcase"):
        outcome, message = "passed", ""
        for kind in ("failure", "error", "skipped"):
            for element in case.iter(kind):
                outcome, message = kind, element.get("message", "")[:500]
        noted = {each.get("name"): each.get("value") for each in case.iter("property")}
        tests.append(
            {"test": f"{case.get('classname')}::{case.get('name')}", "outcome": outcome, "message": message}
            | {"seconds": float(case.get("time", 0)), "noted": noted}
        )
    outcomes: list[str] = [test["outcome"] for test in tests]
    return {"outcomes": {kind: outcomes.count(kind) for kind in sorted({*outcomes})}, "tests": tests}


def run_section(section: Section, left_s: float, folder: Path) -> Figures:
    """Runs one, and ends it with its own processes where it takes too long: outcome, seconds, figures, and what a
    failed one printed last."""
    limit_s, began = min(section.limit_s, left_s), time.monotonic()
    if limit_s < _LEAST_S:
        return {"outcome": "left out", "exit_code": None, "seconds": 0.0, "figures": {}}
    log = folder / f"{section.name}.log"
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *section.words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        code = None
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found: Figures = {"outcome": "out of time" if code is None else "failed" if code else "passed", "exit_code": code}
    found["seconds"] = round(time.monotonic() - began, 1)
    try:
        found["figures"] = section.figures()
    except Exception as error:  # a file that is missing or cut short, whatever reads it
        found |= {"outcome": "failed", "figures": {}, "problem": f"{type(error).__name__}: {error}"[:500]}
    if found["outcome"] != "passed":
        with log.open(encoding="utf-8", errors="replace") as output:
            found["output"] = output.read()[-20_000:].splitlines()[-_LINES:]
    return found
