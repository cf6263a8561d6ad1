"""Refused command lines: exit code 2, and on stderr the option, what was expected and where to read on."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from skipwise.components.__main__ import guarded, main
from skipwise.components.cli import parse
from skipwise.models.config import EncoderConfig
from tests.components.conftest import refused

TRAIN = ("train", "best")


def unboxed(text: str) -> str:
    """The words in a box that tyro has drawn, in whichever characters the terminal has."""
    return " ".join(re.sub("[│─╭╮╰╯|+]|--{3,}", " ", text).split())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((*TRAIN, "--train.epoch", "3"), "options: --train.epoch, 3 Perhaps you meant: --train.epochs INT"),
        ((*TRAIN, "--train.epochs", "many"), "Error parsing --train.epochs: invalid literal for int()"),
        ((*TRAIN, "--train.epochs"), "Missing value for argument '--train.epochs'"),
        ((*TRAIN, "--train.precision", "fp8"), "invalid choice 'fp8' for argument '--train.precision'"),
        ((*TRAIN, "junk"), "Unrecognized options: junk"),
        ((*TRAIN, "--train.refit=yes"), "Unrecognized options: yes"),
        (
            (*TRAIN, "--no-loss.mask-repeats"),
            "Perhaps you meant: --loss.mask-repeats, --loss.no-mask-repeats",
        ),
        ((*TRAIN, "--data.lanes", "7"), "--data.batch-size 128 must be a multiple of --data.lanes 7: change either"),
        ((*TRAIN, "--data.batch-size", str(10**12)), f"--data.batch-size {10**12} must lie in 1..1048576"),
        ((*TRAIN, "--encoder.max-length", str(2**31)), f"--encoder.max-length {2**31} must lie in 1..65536"),
        ((*TRAIN, "--table.dim", str(2**40)), f"--table.dim {2**40} must be a positive multiple of 4, at most 16384"),
        (("similar",), "Missing from skipwise similar: --export"),
        (("prepare", "--input", "a", "--output", "b", "--threads", "x"), "Error parsing --threads"),
        (("doctor", "--ranks", str(10**9)), f"--ranks is {10**9}: expected 1 to 4096"),
        (("table", "--data", "d", "--output", "o", "--seeds", str(10**12)), f"--seeds {10**12} must be at most 1000"),
        (("synthesize", "--output", "a.csv", "--sessions", "1", "--tracks", str(10**12)), "--tracks must be at most"),
        (("show",), "--run must name at least one run directory, or --data a dataset directory"),
        (("show", "--run", "x", "--data", "y"), "or --data a dataset directory, and not both"),
        (("show", "--run", "x", "--tyro-print-completion"), "Unrecognized options: --tyro-print-completion"),
    ],
)
def test_a_refused_command_line_is_a_box_on_stderr(words: tuple[str, ...], wanted: str, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skipwise", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    text = unboxed(said.err)
    assert wanted in text and f"skipwise {words[0]}" in text and text.endswith("--help")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trane",), "there is no command 'trane': expected one of synthesize, prepare"),
        (("train", "fastest"), "there is no recipe 'fastest': expected one of best, unidir"),
        ((*TRAIN, "--loss.alpha", "nan"), "--loss.alpha must be a finite number, not nan"),
        (
            ("train", "best", "--loss.alpha", ".7"),
            "--loss.alpha 0.7 changes nothing here: it is read with --loss.context output or track; add that, or leave",
        ),
        (
            ("train", "unidir", "--loss.keep-dim", "32"),
            "--loss.keep-dim 32 changes nothing here: it is read with --loss.k",
        ),
        (
            ("train", "unidir", "--loss.calibration", "1"),
            "--loss.calibration 1.0 changes nothing here: it is read with ",
        ),
        (
            (*TRAIN, "--encoder.kind", "gru", "--encoder.positions", "none", "--encoder.heads", "4"),
            "--encoder.heads 4 changes nothing here: it is read with --encoder.kind transformer, ligr or hstu; add",
        ),
        (
            (*TRAIN, "--encoder.kind", "hstu", "--encoder.hidden", "64"),
            "--encoder.hidden 64 changes nothing here: it is read with --encoder.kind transformer, ligr or gru; add",
        ),
        ((*TRAIN, "--optimizer.clip-norm", "inf"), "--optimizer.clip-norm must be a finite number, not inf"),
        ((*TRAIN, "--train.seed", "1" * 40), "--train.seed must be a whole number of 64 bits, not 1111"),
        (
            (*TRAIN, "--train.validation-sessions", "9"),
            "--train.validation-sessions is called --selection.sessions now",
        ),
        ((*TRAIN, "--train.validation_sessions=9"), "--train.validation-sessions is called --selection.sessions now"),
        ((*TRAIN, "--evaluate.no-filter-history"), "--evaluate.no-filter-history is gone: by `served` the tracks"),
        ((*TRAIN, "--selection.protocol=uniform"), "--selection.protocol uniform is called paper now"),
        (("evaluate", "--run", "r", "--protocol", "full", "uniform"), "--protocol uniform is called paper now"),
        (("recommend", "--export", "e", "--session", "a", "--exclude", "both"), "--exclude both is called session now"),
        (("recommend", "--exclude", "heard"), "--exclude heard is called kept now"),
        ((*TRAIN, "--config="), "--config needs a YAML file"),
        ((*TRAIN, "--config", "a.yaml", "--config", "b.yaml"), "--config is given twice"),
        (("prepare",), "--input names no file: give at least one, or look at one with --explain"),
        (("prepare", "--input", "a"), "--output is missing: name the dataset directory to write"),
        (("prepare", "--input", "a", "--output", "b", "--memory", "inf"), "--memory must be at least 0.25 GiB"),
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


def test_other_ranks_are_silent_and_refuse_too(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="^2$"):
        parse(EncoderConfig, ["--hidden", "x"], "skipwise train")
    assert "".join(capsys.readouterr()) == ""


def test_a_refused_command_line_is_not_tried_again(tmp_path, monkeypatch):
    """Under torchrun: what tyro refuses is marked like every other refusal."""
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    monkeypatch.setattr(sys, "argv", ["skipwise", "train", "--bogus"])
    with pytest.raises(SystemExit, match="^2$"):
        main()
    words = json.loads(file.read_text())["message"]
    assert words["message"] == "skipwise: the command line `train --bogus` was refused"
    assert words["extraInfo"]["refused"] == "yes"


def test_output_that_nobody_reads_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", "skipwise"], stdout=write, stderr=subprocess.PIPE, env=environment, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("words", "rank", "said"),
    [
        (
            ("train", "best"),
            "",
            "skipwise: this process is out of memory (MemoryError: Unable to allocate 32.0 PiB for",
        ),
        (("recommend",), "", "use a smaller --batch"),
        (("show",), "", "use a machine with more memory, or end what else runs on it"),
        (("train",), "3", "skipwise: rank 3 of "),
    ],
)
def test_memory_that_runs_out_is_named(words: tuple[str, ...], rank: str, said: str, capsys, monkeypatch, tmp_path):
    """Exit code 1: torchrun may start the ranks again, as other processes may have taken the memory."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    if rank:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as stop:
        guarded(lambda _: np.empty(1 << 55, np.int8), [*words])
    found = capsys.readouterr().err
    assert stop.value.code == 1 and said in found and found.count("\n") == 1
    assert found.strip() in json.loads((tmp_path / "error.json").read_text())["message"]["message"]
    assert "refused" not in (tmp_path / "error.json").read_text()


def test_a_limit_below_what_the_libraries_take_is_refused_before_they_are_loaded(run, monkeypatch):
    monkeypatch.setattr("skipwise.components.__main__.process_memory", lambda: 700_000_000)
    refused(run("recommend", "--export", "x", "--session", "t"), "leaves 0.7 GB, and recommend needs at least 1.4 GB")
    assert "needs at least" not in run("show", "--run", "x").said
