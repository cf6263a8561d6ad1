"""`make setup` after one that was cut off, with a Python that only writes down what it is asked to install."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
*"venv --clear"*) rm -rf "$VENV" ;;
esac
case "$*" in
"-m venv"*) mkdir -p "$VENV/bin" && cp "$0" "$VENV/bin/python" ;;
esac
case "$*" in
"-m pip show"*) exit 1 ;;
"-m pip --version") [ -e "$VENV/bin/pip" ]; exit ;;
*"$FAILS"*) [ "$BY" = exit ] && exit 1; kill -9 $PPID $$ ;;
esac
case "$*" in
"-m venv"*) touch "$VENV/bin/pip" ;;
esac
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a target and returns the exit code, and what Python was asked for."""
    for name in ("Makefile", "setup.py", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    log = tmp_path / "log"

    def run(
        target: str, fails: str = "nothing", by: str = "exit", options: Sequence[str] = ()
    ) -> tuple[int, list[str]]:
        log.write_text("")
        environment = {"PATH": os.environ["PATH"], "LOG": str(log), "VENV": str(tmp_path / "venv")}
        environment |= {"FAILS": fails, "BY": by}
        command = ["make", target, "DEVICE=cpu", f"BASE_PYTHON={python}", f"VENV={tmp_path / 'venv'}", *options]
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return made.returncode, log.read_text().splitlines()

    return run


def installs(asked: list[str]) -> list[str]:
    return [words.rsplit(" -r ", 1)[-1] for words in asked if "pip install" in words]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(("target", "at"), [("setup", "torch-cpu"), ("dev", "extras.txt"), ("dev", "dev.txt")])
def test_what_was_cut_off_starts_afresh(target: str, at: str, make):
    assert make(target, at, "kill")[0] != 0
    code, asked = make(target)
    assert code == 0 and any("-m venv --clear" in words for words in asked)
    assert "requirements/torch-cpu.txt" in installs(asked)
    assert ("requirements/dev.txt" in installs(asked)) == (target == "dev")
    assert [words for words in make(target)[1] if "venv" in words or "install" in words] == []


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_what_pip_refused_goes_on(make):
    """Without a network, for example: what is installed stays."""
    assert make("extras", "extras.txt")[0] != 0
    code, asked = make("extras")
    assert code == 0 and installs(asked) == ["requirements/extras.txt"]
    assert not any("venv" in words.split(" -r ")[0].split() for words in asked)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_an_environment_that_was_cut_off_before_it_had_pip(make):
    assert make("setup", "-m venv", "kill")[0] != 0
    code, asked = make("setup")
    assert code == 0 and len(installs(asked)) == 3


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_a_finished_run_is_exported_again():
    made = subprocess.run(["make", "-n", "train", "DEVICE=cpu", "RUN=runs/x"], cwd=ROOT, capture_output=True, text=True)
    (line,) = (line for line in made.stdout.splitlines() if "skipwise export" in line)
    assert line.endswith("export --run runs/x --output exports/x --overwrite")
