"""The doctor's checks on made-up versions and machines, and its command on the real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipwise.common import versions as package_versions
from skipwise.common.errors import UserError
from skipwise.common.versions import load_problems, version_problems
from skipwise.components.doctor import DoctorConfig, doctor
from skipwise.datapipes.config import DataConfig
from skipwise.training.guards import memory_check
from skipwise.training.guards.machine_plan import Card, Machine, machine_problems
from skipwise.training.guards.memory_needs import check_memory, training_needs

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


def test_a_package_that_does_not_load_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise OSError('libcuda.so.1: cannot open\\nsecond line')")
    (tmp_path / "fbgemm_gpu").mkdir()
    (tmp_path / "fbgemm_gpu" / "__init__.py").touch()
    (tmp_path / "fbgemm_gpu" / "fbgemm_gpu_py.so").write_bytes(b"torn")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delitem(sys.modules, "fbgemm_gpu", raising=False)
    torch, fbgemm = load_problems(CPU)
    assert torch.startswith("torch does not load (OSError: libcuda.so.1: cannot open): ")
    assert fbgemm.startswith("fbgemm_gpu does not load (OSError: ") and "fbgemm_gpu_py.so: file too short" in fbgemm
    assert load_problems({}) == [], "what is not installed is reported once, by its version"


def test_a_package_that_torchrec_needs_is_a_problem(monkeypatch):
    monkeypatch.setattr(
        package_versions, "requires", lambda name: ["absent>=1", "numpy", 'iopath; extra == "datasets"']
    )
    assert load_problems({"torchrec": "1.8.0"}) == ["absent is not installed, and torchrec needs it: run `make setup`"]
    monkeypatch.undo()
    assert load_problems({"torchrec": "1.8.0"}) == []


def problems(machine: Machine, world_size: int, tracks: int = 1_000_000, versions: dict = GPU) -> list[str]:
    return machine_problems(machine, DoctorConfig().run, tracks, world_size, versions)


def test_a_training_larger_than_the_machine_is_trains_own_refusal():
    assert problems(Machine(2, 8 * GIB, 4 * GIB), 4, versions=CPU) == []
    assert problems(Machine(2, 8 * GIB, None), 4, versions=CPU) == [], "nothing is known of the memory"
    (problem,) = problems(Machine(2, 8 * GIB, 2**28), 4, versions=CPU)
    config = DoctorConfig().run
    with pytest.raises(UserError) as refused:
        check_memory(config, training_needs(config, 1_000_000, config.encoder.max_length, 4), range(4), 2**28)
    assert problem == str(refused.value) and "table 1,000,000 x 144 x 4 / 4" in problem


def train_refuses(config: DoctorConfig, machine: Machine, folder: Path) -> bool:
    """Whether `train` ends for memory on any of the ranks of that machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_check, "available_memory", lambda: machine.free)
        patch.setattr(memory_check, "free_disk", lambda path: None)
        patch.setattr(memory_check, "world_size", lambda: config.ranks)
        patch.setenv("LOCAL_WORLD_SIZE", str(config.ranks))
        for number in range(config.ranks):
            gpu = machine.cards[number].free if machine.cards else None
            patch.setattr(memory_check, "device_memory", lambda device, gpu=gpu: gpu)
            patch.setattr(memory_check, "rank", lambda number=number: number)
            patch.setenv("LOCAL_RANK", str(number))
            try:
                memory_check.check_machines(config.run, config.tracks, config.run.encoder.max_length, folder)
            except UserError as error:
                assert str(error).startswith("training needs ")
                return True
    return False


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tracks=st.integers(1, 1 << 34),
    dimension=st.sampled_from([8, 64, 128, 512]),
    ranks=st.sampled_from([1, 2, 4, 8, 16]),
    gpu=st.booleans(),
    host_share=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    device_share=st.sampled_from([0.5, 1.0, 2.0]),
    margin=st.integers(-1, 1),
)
def test_doctor_and_train_refuse_for_memory_in_the_same_cases(
    tracks: int, dimension: int, ranks: int, gpu: bool, host_share: float, device_share: float, margin: int, tmp_path
):
    """Far from what is needed and one byte beside it, on a CPU and where the last of the GPUs has the least free."""
    config = DoctorConfig(tracks, dimension, ranks)
    needs = training_needs(config.run, tracks, config.run.encoder.max_length, ranks)
    on_host = ranks * sum(need.bytes for need in needs if not gpu or not need.on_device)
    on_device = sum(need.bytes for need in needs if need.on_device)
    free = [on_device * 2] * (ranks - 1) + [int(on_device * device_share) + margin]
    cards = tuple(Card("H200", 1 << 60, count) for count in free) if gpu else ()
    machine = Machine(2, 1 << 60, max(int(on_host * host_share) + margin, 0), cards)
    problems = machine_problems(machine, config.run, tracks, ranks, GPU)
    assert all(problem.startswith("training needs ") for problem in problems)
    fits = margin >= 0 if host_share == 1 else host_share > 1
    if gpu:
        fits = fits and (margin >= 0 if device_share == 1 else device_share > 1)
    assert (not problems) is fits
    assert train_refuses(config, machine, tmp_path) is not fits


def test_ranks_that_no_batch_is_divided_by_are_a_problem():
    (problem,) = problems(Machine(2, 64 * GIB, 64 * GIB), 3, versions=CPU)
    assert "3 ranks do not divide --data.lanes 16" in problem
    lanes, batch_size = re.search(r"train with --data.lanes (\d+) --data.batch-size (\d+)$", problem).groups()
    DataConfig(path="data", lanes=int(lanes), batch_size=int(batch_size)).check_world_size(3)


def test_gpu_machines():
    one_card = Machine(16, 64 * GIB, 64 * GIB, (Card("H200", 139 * GIB, 138 * GIB),))
    assert problems(one_card, 1) == []
    (ranks,) = problems(one_card, 4)
    assert "train with -j 1x1" in ranks
    (size,) = problems(Machine(16, 999 * GIB, 999 * GIB, one_card.cards), 1, 400_000_000)
    assert "a GPU of this machine" in size and "more GPUs or --table.precision fp16 or a smaller --table.dim" in size
    (wheel,) = problems(one_card, 1, versions=CPU)
    assert "make setup DEVICE=gpu" in wheel


def test_it_reports_and_exits_with_2_when_torch_and_fbgemm_cannot_be_imported(tmp_path):
    """In a process of its own, where both fail as they do when a shared library is missing or torn."""
    (tmp_path / "torch.py").write_text("raise OSError('libc10.so: cannot open shared object file')")
    (tmp_path / "fbgemm_gpu").mkdir()
    (tmp_path / "fbgemm_gpu" / "__init__.py").touch()
    (tmp_path / "fbgemm_gpu" / "fbgemm_gpu_py.so").write_bytes(b"torn")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "skipwise", "doctor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "plan: 1,000,000 tracks x 128 fp32, row-wise over 4 rank(s)" in done.stdout
    assert "problem: torch does not load (OSError: libc10.so" in done.stdout
    assert "problem: fbgemm_gpu does not load (OSError: " in done.stdout and "file too short" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_problem_raises_and_a_well_machine_says_so(monkeypatch, capsys):
    doctor(DoctorConfig(tracks=1000, ranks=1))
    assert "well: no problem found" in capsys.readouterr().out
    monkeypatch.setattr("skipwise.components.doctor.installed", lambda: CPU | {"torchmetrics": "1.8.2"})
    with pytest.raises(UserError, match="1 problem"):
        doctor(DoctorConfig(tracks=1000, ranks=1))
    assert "problem: torchmetrics is 1.8.2" in capsys.readouterr().out


def test_a_plan_for_other_machines(capsys):
    doctor(DoctorConfig(tracks=10**8, ranks=64, gpu_memory=80.0, node_ranks=16, precision="fp16"))
    said = capsys.readouterr().out
    assert "plan for --data.batch-size 8192 --data.lanes 64, not for this machine" in said
    assert "table 100,000,000 x 144 x 2 / 64 = 0.5 GB" in said and "--table.sharding grid: 64 ranks" in said
    doctor(DoctorConfig(tracks=10**8, ranks=64, gpu_memory=80.0))
    said = capsys.readouterr().out
    assert "rows of a multiple of 32 numbers, not 144: it would be with --dimension 144" in said
    assert "--table.sharding grid: 64 ranks, 8 on a node, 100,000,000 tracks x 160" in said
    doctor(DoctorConfig(tracks=10**8, ranks=9, gpu_memory=80.0))
    assert "without a grid: --table.sharding grid splits rows" in capsys.readouterr().out, "9 ranks on 2 nodes of 8"
    with pytest.raises(UserError, match="1 problem"):
        doctor(DoctorConfig(tracks=10**11, ranks=64, gpu_memory=80.0))
    assert "GB of memory on each device, of 80 GB: use more --ranks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"ranks": 0}, "ranks is 0"),
        ({"dimension": 12}, "multiple of 8"),
        ({"gpu_memory": 0.0}, "--gpu-memory is 0.0: expected a number above 0"),
        ({"node_ranks": 4}, "--node-ranks is of a plan for other machines: add --gpu-memory"),
        ({"gpu_memory": 80.0, "ranks": 3, "batch_size": 128}, "--batch-size 128 must be a multiple of --ranks 3"),
    ],
)
def test_a_config_that_means_nothing_is_refused(option, words):
    with pytest.raises(ValueError, match=words):
        DoctorConfig(**option)


def test_the_plan_shown_is_the_default_recipes():
    from skipwise.components.recipes import DEFAULT, RECIPES

    table = RECIPES[DEFAULT]().table
    assert DoctorConfig().run == RECIPES[DEFAULT]()
    assert (table.sharding, table.optimizer) == ("row_wise", "rowwise_adagrad")
