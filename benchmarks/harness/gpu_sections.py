"""What `gpu-check` runs: sections, each in a process of its own with a limit of time, and the figures they leave."""

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from skipwise.common.files import read_json, write_text

SectionName = Literal["step", "evaluate", "train", "tests", "doctor", "step-rest"]
ROOT = Path(__file__).resolve().parents[2]
"""The repository: tests are there, and the sample."""
_LEAST_S = 5.0
_LAST = 3000
"""Characters of a failed section's output, and of a failed test's text, that are kept: the last ones."""
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
    """What to run; the order is that of the choices, what matters most first."""
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
    evaluate = "--tracks 3000 --dim 16 --users 64 --rounds 1"
    if not config.small:
        evaluate = "--tracks 1000000 --dim 128 --users 16384"
    train = "--train.epochs 1 --table.dim 16 --evaluate.sessions 300 --selection.sessions 300 --train.no-refit"
    if not config.small:
        train = "--train.epochs 3 --train.precision bf16"
    pytest = ["-m", "pytest", "-q", "-m", "gpu", "--junitxml", str(folder / "tests.xml"), "tests/gpu"]
    if find_spec("xdist"):  # a file a process: the first use of each kernel takes longer than most tests
        pytest += ["--numprocesses", str(min(6, os.cpu_count() or 1)), "--dist", "loadfile"]
    first, rest = step_cases(config.small, folder, optimizers)
    found = [
        _steps("step", first, 180, folder),
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
        Section("tests", pytest, 240, lambda: figures_of_tests(folder / "tests.xml")),
        Section("doctor", ["-m", "skipwise", "doctor"], 60, dict),
        _steps("step-rest", rest, 360, folder),
    ]
    return [section for section in found if section.name in config.sections]


Cases = dict[str, list[str]]
"""Options of `step` by a case's name."""


def step_cases(small: bool, folder: Path, optimizers: tuple[str, ...]) -> tuple[Cases, Cases]:
    """The cases that matter most, bf16 at large batches, and the rest; by batch, as those of a size share theirs.

    Plain runs beside one batch alone, as it takes a process of its own; the default recipe is one more case of it.
    """
    batches = (32, 16) if small else (4096, 16384, 1024, 256)
    size = ["--tracks", "2000", "--dim", "16", "--rounds", "1", "--warmup", "0"] if small else ["--rounds", "5"]
    first: Cases = {}
    rest: Cases = {}

    def add(name: str, to: Cases, *options: str) -> None:
        to[name] = [*options, *size, "--output", str(folder / "reports"), "--json", str(folder / f"{name}.json")]

    for number, batch in enumerate(batches):
        kinds = [("unidir-skip-track", optimizer) for optimizer in optimizers] + [("best", "recipe")] * (not number)
        for recipe, optimizer in kinds:
            for precision in ("bf16", "fp32"):
                name, to = f"{recipe}-{optimizer}-{precision}-{batch}", first
                if precision == "fp32" or number >= 2:
                    to = rest
                options = ["--recipe", recipe, "--optimizer", optimizer, "--precision", precision]
                options += ["--batch", str(batch), "--baseline"]
                usual = (recipe, optimizer) == kinds[0]
                add(name, to, *options, "plain" if usual and not number else "none")
                if usual and precision == "bf16" and not small:
                    add(f"{name}-compiled", to, *options, "none", "--compile")
    return first, rest


def _steps(name: SectionName, cases: Cases, limit_s: float, folder: Path) -> Section:
    file = folder / f"{name}.txt"
    write_text(file, "".join(f"{' '.join(case)}\n" for case in cases.values()))
    words = ["-m", "skipwise.benchmarks.harness.step_grid", str(file)]
    return Section(name, words, limit_s, lambda: {"cases": [case_figures(case, folder) for case in cases]})


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
                outcome, message = kind, (element.text or element.get("message") or "")[-_LAST:]
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
            found["output"] = output.read()[-_LAST:]
    return found
