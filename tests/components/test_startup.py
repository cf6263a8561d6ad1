"""Commands that compute nothing answer at once: in seconds of CPU (user and system) of a process of their own."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from skipwise.components.__main__ import COMMANDS
from tests.conftest import random_sessions, write_dataset

MOST_S, TORCH_S = 2.0, 1.0
SMALL = "--table.dim 16 --encoder.heads 2 --encoder.hidden 16 --train.epochs 1 --data.negatives 50 --data.workers 0"


def seconds(*command: str) -> tuple[float, subprocess.CompletedProcess]:
    """CPU of `python COMMAND`, and how it ended. One thread: a library's idle ones would count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def answers_at_once(words: tuple[str, ...], code: int, wanted: str) -> None:
    """In `MOST_S`, or in as much more as `import torch` takes at this moment than on an idle core.

    Processes that share a core make each second of CPU longer.
    """
    for _ in range(2):
        spent, done = seconds("-m", "skipwise", *words)
        assert done.returncode == code, done.stderr
        assert wanted in done.stdout + done.stderr
        if spent < MOST_S:
            return
    spent = min(spent, seconds("-m", "skipwise", *words)[0])
    assert spent < MOST_S * seconds("-c", "import torch")[0] / TORCH_S


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str):
    answers_at_once((*command.split(), "--help"), 0, "usage: skipwise")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fly", "there is no command 'fly'"),
        ("train fastest", "there is no recipe 'fastest'"),
        ("train --bogus", "Unrecognized options: --bogus"),
        ("train --train.epochs many", "Error parsing --train.epochs"),
        ("train --data.lanes 7", "must be a multiple of --data.lanes 7"),
        ("train --config missing.yaml", "missing.yaml cannot be read"),
        ("prepare --input missing --output out", "missing does not exist"),
        ("recommend --export missing --session a --dial 101", "dial 101.0 must be auto or lie in 0..100"),
        ("similar --export missing --track t", "missing/manifest.json cannot be read"),
        ("show --run missing", "missing/run.json cannot be read"),
        *[(f"{command} --bogus", f"skipwise {command}") for command in COMMANDS],
    ],
)
def test_refusals(line: str, wanted: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers_at_once(tuple(line.split()), 2, wanted)


def test_print_config():
    answers_at_once(("train", "unidir", "--train.epochs", "3", "--print-config"), 0, "\n  epochs: 3\n")


def test_doctor():
    answers_at_once(("doctor", "--tracks", "1000"), 0, "well: no problem found")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A trained run and its export."""
    folder = tmp_path_factory.mktemp("startup")
    write_dataset(folder / "data", random_sessions(60, 203), 203)
    words = f"train --data.path {folder}/data --run-dir {folder}/run --evaluate.candidates 50 {SMALL}"
    for line in (words, f"export --run {folder}/run --output {folder}/export"):
        _, done = seconds("-m", "skipwise", *line.split())
        assert done.returncode == 0, done.stderr
    return folder


def test_show(results: Path):
    run = str(results / "run")
    answers_at_once(("show", "--run", run), 0, "trained ")
    answers_at_once(("show", "--run", run, "--run", run), 0, "B-A")


def test_similar(results: Path):
    import pyarrow.parquet as pq

    track = pq.read_table(next((results / "export" / "embeddings").glob("*.parquet")))["track_id"][0].as_py()
    answers_at_once(("similar", "--export", str(results / "export"), "--track", track), 0, "rank")
