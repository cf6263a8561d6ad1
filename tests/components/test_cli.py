"""Refused command lines: one sentence on stderr that names the option and what was expected, and exit code 2."""

import os
import subprocess
import sys

import pytest

from skipwise.common.errors import UserError
from skipwise.components.__main__ import COMMANDS, main
from skipwise.components.cli import parse
from skipwise.models.config import EncoderConfig

TRAIN = ("train", "best")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((*TRAIN, "--train.epoch", "3"), "there is no option '--train.epoch': perhaps --train.epochs was meant, see `"),
        ((*TRAIN, "--train.epochs", "many"), "--train.epochs must be a whole number: see `skipwise train best --help`"),
        ((*TRAIN, "--train.epochs"), "--train.epochs needs a value: see `skipwise train best --help`"),
        ((*TRAIN, "--train.precision", "fp8"), "--train.precision must be one of fp32, bf16, not 'fp8': see `"),
        ((*TRAIN, "junk"), "'junk' belongs to no option: see `skipwise train best --help`"),
        ((*TRAIN, "--train.refit=yes"), "'yes' belongs to no option"),
        ((*TRAIN, "--data.lanes", "7"), "--data.batch-size 128 must be a multiple of --data.lanes 7: change either"),
        ((*TRAIN, "--loss.alpha", "nan"), "--loss.alpha must be a finite number, not nan"),
        ((*TRAIN, "--optimizer.clip-norm", "inf"), "--optimizer.clip-norm must be a finite number, not inf"),
        ((*TRAIN, "--train.seed", "1" * 40), "--train.seed must be a whole number of 64 bits, not 1111"),
        ((*TRAIN, "--data.batch-size", str(10**12)), f"--data.batch-size {10**12} must lie in 1..1048576"),
        ((*TRAIN, "--encoder.max-length", str(2**31)), f"--encoder.max-length {2**31} must lie in 1..65536"),
        ((*TRAIN, "--table.dim", str(2**40)), f"--table.dim {2**40} must be a positive multiple of 4, at most 16384"),
        ((*TRAIN, "--config="), "--config needs a YAML file"),
        ((*TRAIN, "--config", "a.yaml", "--config", "b.yaml"), "--config is given twice"),
        (("prepare",), "--input, --output must be given: see `skipwise prepare --help`"),
        (("prepare", "--input", "a", "--output", "b", "--threads", "x"), "--threads must be a whole number or None"),
        (("prepare", "--input", "a", "--output", "b", "--memory", "inf"), "--memory must be at least 0.25 GiB"),
        (("doctor", "--ranks", str(10**9)), f"--ranks is {10**9}: expected 1 to 4096"),
        (("table", "--data", "d", "--output", "o", "--seeds", str(10**12)), f"--seeds {10**12} must be at most 1000"),
        (("synthesize", "--output", "a.csv", "--sessions", "1", "--tracks", str(10**12)), "--tracks must be at most"),
        (("show", "--run", "x", "--tyro-print-completion"), "there is no option '--tyro-print-completion'"),
        (
            ("show", "--tyro-print-completion", "cmd"),
            "--tyro-print-completion must name one of bash, zsh, tcsh, fish, not 'cmd'",
        ),
        (("show", "--tyro-write-completion", "bash", "/no/such"), "--tyro-write-completion cannot write (No such file"),
        (("show", "--run", "no\nsuch\udcff"), "no\\nsuch\\udcff/run.json cannot be read (No such file or directory)"),
    ],
)
def test_a_refusal_is_one_sentence(words: tuple[str, ...], sentence: str, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skipwise", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    assert said.err.startswith(f"skipwise: {sentence}") and said.err.count("\n") == 1


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_is_whole(command: str, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skipwise", command, "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 0 and said.err == ""
    assert said.out.startswith(f"usage: skipwise {command}") and "--help" in said.out


def test_other_ranks_are_silent_and_refuse_too(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="--hidden must be a whole number"):
        parse(EncoderConfig, ["--hidden", "x"], "train")
    assert "".join(capsys.readouterr()) == ""


def test_output_that_nobody_reads_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", "skipwise"], stdout=write, stderr=subprocess.PIPE, env=environment, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
