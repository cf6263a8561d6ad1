"""The doctor's checks on made-up versions and machines, and its command on the real one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.common.versions import import_problems, version_problems
from skipwise.components.doctor import DoctorConfig, Machine, doctor, machine_problems, plan_rows

ROOT = Path(__file__).parents[2]
CPU = {
    "torch": "2.13.0+cpu",
    "fbgemm-gpu": None,
    "fbgemm-gpu-cpu": "1.8.0",
    "torchrec": "1.8.0",
    "torchmetrics": "1.0.3",
    "torchx": "0.7.0",
    "pyarrow": "26.0.1",
}
GPU = CPU | {"torch": "2.11.0+cu130", "fbgemm-gpu": "1.6.0", "fbgemm-gpu-cpu": None, "torchrec": "1.6.1"}
GIB = 2**30


NIGHTLY = CPU | {"torch": "2.14.0.dev20261101", "fbgemm-gpu-cpu": "1.9.0", "torchrec": "1.9.0"}


@pytest.mark.parametrize("versions", [CPU, GPU, NIGHTLY])
def test_versions_that_belong_together_have_no_problem(versions):
    assert version_problems(versions) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"torch": "2.12.1"}, ["fbgemm-gpu-cpu is 1.8.0", "torchrec is 1.8.0"]),
        ({"fbgemm-gpu-cpu": "1.7.0"}, ["fbgemm-gpu-cpu is 1.7.0 and torch 2.13.0+cpu goes with fbgemm-gpu-cpu 1.8"]),
        ({"torchrec": "1.6.1"}, ["torchrec is 1.6.1 and torch 2.13.0+cpu goes with torchrec 1.8"]),
        ({"torch": "2.10.0"}, ["the oldest supported is 2.11"]),
        ({"torch": "3.0.0"}, ["fbgemm-gpu-cpu is 1.8.0", "torchrec is 1.8.0"]),
        ({"torch": None}, ["torch is not installed"]),
        ({"fbgemm-gpu-cpu": None}, ["fbgemm is not installed"]),
        ({"fbgemm-gpu": "1.8.0"}, ["both installed"]),
        ({"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": None}, ["fbgemm-gpu needs a CUDA build of torch"]),
        ({"torchmetrics": "1.8.2"}, ["torchmetrics is 1.8.2 and torchrec needs 1.0.3"]),
        ({"pyarrow": None}, ["pyarrow is not installed"]),
    ],
)
def test_each_problem_is_one_sentence_with_its_mend(change, words):
    problems = version_problems(CPU | change)
    assert len(problems) == len(words)
    for problem, expected in zip(problems, words, strict=True):
        assert expected in problem
        assert "run `" in problem


def test_a_module_that_does_not_load_is_a_problem_and_one_that_is_missing_is_not_said_twice(tmp_path, monkeypatch):
    (tmp_path / "skipwise_broken.py").write_text("raise OSError('libcuda.so.1: cannot open\\nsecond line')")
    (tmp_path / "skipwise_needs.py").write_text("import skipwise_absent")
    monkeypatch.syspath_prepend(tmp_path)
    modules = {name: (name,) for name in ("skipwise_absent", "skipwise_broken", "skipwise_needs", "skipwise_gone")}
    there = {"skipwise_absent": None, "skipwise_broken": "1", "skipwise_needs": "1", "skipwise_gone": "1"}
    broken, gone = import_problems(there, modules)
    assert "`import skipwise_broken` fails (OSError: libcuda.so.1: cannot open)" in broken
    assert "`import skipwise_gone` fails (ModuleNotFoundError" in gone


@pytest.mark.parametrize(("tracks", "ranks"), [(1_000_000, 4), (10, 4), (5, 4), (3, 8), (7, 1)])
def test_the_plan_covers_every_row_once(tracks, ranks):
    shards = plan_rows(tracks, 128, ranks)
    rows = [row for shard in shards for row in range(shard.first, shard.end)]
    assert rows == list(range(tracks))
    assert sum(shard.weight_bytes for shard in shards) == tracks * 128 * 4
    assert sum(shard.optimizer_bytes for shard in shards) == tracks * 4


def test_a_table_larger_than_the_machine_is_a_problem():
    shards = plan_rows(1_000_000, 128, 4)
    assert machine_problems(Machine(2, 8 * GIB), shards, CPU) == []
    (problem,) = machine_problems(Machine(2, 2**28), shards, CPU)
    assert "the track table takes 492.1 MiB and this machine has 256.0 MiB" in problem


def test_gpu_machines():
    one_card = Machine(16, 64 * GIB, ("H200",), (139 * GIB,))
    assert one_card.backend == "nccl"
    assert machine_problems(one_card, plan_rows(1_000_000, 128, 1), GPU) == []
    (ranks,) = machine_problems(one_card, plan_rows(1_000_000, 128, 4), GPU)
    assert "train with -j 1x1" in ranks
    (size,) = machine_problems(one_card, plan_rows(400_000_000, 128, 1), GPU)
    assert "fewer tracks" in size
    (wheel,) = machine_problems(one_card, plan_rows(1_000_000, 128, 1), CPU)
    assert "make setup DEVICE=gpu" in wheel


def test_it_reports_and_exits_with_2_when_torch_and_fbgemm_cannot_be_imported(tmp_path):
    """In a process of its own, where both fail as they do when a shared library is missing."""
    for module in ("torch", "fbgemm_gpu"):
        (tmp_path / f"{module}.py").write_text("raise OSError('libc10.so: cannot open shared object file')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "skipwise", "doctor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "plan: 1,000,000 tracks x 128 fp32, row-wise over 4 rank(s)" in done.stdout
    assert "problem: `import torch` fails (OSError: libc10.so" in done.stdout
    assert "problem: `import fbgemm_gpu` fails (OSError: libc10.so" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_problem_raises_and_a_well_machine_says_so(monkeypatch, capsys):
    doctor(DoctorConfig(tracks=1000, ranks=1))
    assert "well: no problem found" in capsys.readouterr().out
    monkeypatch.setattr("skipwise.components.doctor.installed", lambda: CPU | {"torchmetrics": "1.8.2"})
    with pytest.raises(UserError, match="1 problem"):
        doctor(DoctorConfig(tracks=1000, ranks=1))
    assert "problem: torchmetrics is 1.8.2" in capsys.readouterr().out


def test_a_config_that_means_nothing_is_refused():
    with pytest.raises(ValueError, match="ranks is 0"):
        DoctorConfig(ranks=0)


def test_the_plan_shown_is_the_default_recipes():
    from skipwise.components.recipes import DEFAULT, RECIPES
    from skipwise.models.table import row_block

    table = RECIPES[DEFAULT]().table
    assert (table.dim, table.sharding, table.optimizer) == (DoctorConfig().dimension, "row_wise", "rowwise_adagrad")
    for ranks in (1, 3, 4):
        shards = plan_rows(10, table.dim, ranks)
        assert [(shard.first, shard.end) for shard in shards] == [row_block(10, rank, ranks) for rank in range(ranks)]
