"""The AppDefs as TorchX sees them, the short command of `.torchxconfig`, and the words that a failing job leaves."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from torchx.runner import get_runner
from torchx.specs import AppDef

from skipwise.common import failure
from skipwise.common.failure import record
from skipwise.common.machine import usable_cores
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.prepare.shard_options import MOST_SHARDS
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize

ROOT = Path(__file__).parents[2]
TORCHX = Path(sys.executable).parent / "torchx"


def app_of(component: str, *args: str) -> AppDef:
    """The AppDef that `torchx run components/launch.py:COMPONENT ARGS` would submit."""
    with get_runner() as runner:
        info = runner.dryrun_component(f"{ROOT}/components/launch.py:{component}", list(args), "local_cwd")
    return info._app


def torchx(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs torchx as a user does, from `cwd`, with this environment's own programs first on PATH."""
    environment = {
        "PATH": f"{TORCHX.parent}:/usr/bin:/bin",
        "HOME": str(Path.home()),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    return subprocess.run(
        [str(TORCHX), *args], cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_the_short_command_starts_the_train_command_on_four_ranks():
    done = torchx("run", "--dryrun", "dist.ddp", "-j", "1x4", "train", "--data.path", "X")
    assert done.returncode == 0, done.stderr
    application = " ".join(done.stdout.replace('"', "").replace("'", "").split())
    assert "--nproc_per_node 4" in application
    assert "-m skipwise train --data.path X" in application
    assert "local_cwd://" in application


def test_retries_and_nodes_reach_torchrun(tmp_path):
    """Retries by its environment through an AppDef; for a local scheduler, which knows none, off the command line."""
    (role,) = app_of("train", "--max_retries", "2").roles
    assert (role.max_retries, role.env["PET_MAX_RESTARTS"]) == (2, "2")
    for program in ("torchrun", "python"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho restarts=$PET_MAX_RESTARTS {program} $@\n")
        (tmp_path / program).chmod(0o755)
    one_node = "python -P -m skipwise.components.one_node"
    for given, nodes, expected in (
        ("dist.ddp --max_retries 3 train", "1", f"restarts=3 {one_node}"),
        ("dist.ddp train", "1:1", f"restarts= {one_node}"),
        ("dist.ddp train", "2", "restarts= torchrun"),
        ("dist.ddp train", "1:2", "restarts= torchrun"),
    ):
        # `sh -c` stands for TorchX: its words are what the shell beneath sees as its parent's.
        line = f"bash -c 'torchrun --nnodes {nodes} -m skipwise train --run x'; true"
        done = subprocess.run(
            ["sh", "-c", line, *given.split()],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "BASH_ENV": str(ROOT / "components" / "torchrun.bash")},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == f"{expected} --nnodes {nodes} -m -- skipwise train --run x".split()


@pytest.mark.parametrize(
    ("words", "given", "threads"),
    [
        ("--nnodes 1 --nproc_per_node 1", {}, usable_cores()),
        ("--nnodes 2 --nproc-per-node=100000", {}, 1),
        ("--nnodes 1 --nproc-per-node 1", {"OMP_NUM_THREADS": "3"}, 3),
    ],
)
def test_ranks_share_the_cores(words: str, given: dict[str, str], threads: int, tmp_path: Path):
    (tmp_path / "torchrun").write_text("#!/bin/sh\necho $OMP_NUM_THREADS\n")
    (tmp_path / "python").write_text(
        f'#!/bin/sh\ncase "$3" in *one_node) echo $OMP_NUM_THREADS;; *) exec {sys.executable} "$@";; esac\n'
    )
    for program in ("torchrun", "python"):
        (tmp_path / program).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        ["bash", "-c", f". {ROOT}/components/torchrun.bash; torchrun {words} -m skipwise train"],
        env=environment | {"PATH": f"{tmp_path}:{environment['PATH']}"} | given,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(threads)], done.stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "table", "sweep"])
def test_a_command_of_many_ranks_goes_through_torchrun(command):
    app = app_of(command, "--nproc", "3", "--nodes", "2", "--gpu", "3", "--", "--data.path", "a b")
    (role,) = app.roles
    assert app.name == f"skipwise-{command}"
    assert role.num_replicas == 2
    assert role.resource.gpu == 3
    assert "--nproc_per_node 3" in role.args[1]
    assert role.args[1].endswith(f"-m skipwise {command} --data.path 'a b'")


def test_what_a_scheduler_is_asked_for():
    (role,) = app_of("train", "--nproc", "3").roles
    assert (role.resource.cpu, role.resource.memMB, role.resource.gpu, role.mounts) == (3, 3 * 4096, 0, [])
    asked = (
        "--nproc 3 --cpu 5 --memory_mb 700 --gpu 1 --image i:1 --mounts type=bind,src=/a,dst=/b,type=bind,src=/c,dst=/d"
    )
    for command in ("train", "evaluate", "table", "sweep"):
        (role,) = app_of(command, *asked.split()).roles
        assert (role.resource.cpu, role.resource.memMB, role.resource.gpu, role.image) == (5, 700, 1, "i:1")
        assert [(mount.src_path, mount.dst_path) for mount in role.mounts] == [("/a", "/b"), ("/c", "/d")]
    (role,) = app_of(
        "prepare", *asked.replace("--nproc 3", "").replace("--gpu 1", "").split(), "--max_retries", "2"
    ).roles
    assert (role.resource.cpu, role.resource.memMB, role.image, role.max_retries) == (5, 700, "i:1", 2)
    assert [(mount.src_path, mount.dst_path) for mount in role.mounts] == [("/a", "/b"), ("/c", "/d")]


@pytest.mark.parametrize(
    "words",
    [
        "train --mounts type=bind",
        "prepare --mounts foo",
        "train --memory_mb -5",
        "train --nproc 0",
        "prepare --cpu 0",
        "prepare --shards 0",
        f"prepare --shards {MOST_SHARDS + 1}",
        "prepare --max_retries -1",
    ],
)
def test_what_no_scheduler_can_give_is_refused(words: str, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        app_of(*words.split())
    assert stop.value.code == 2
    assert re.search(r"^skipwise: --\w+ \S+: expected ", capfd.readouterr().err, re.MULTILINE)


def test_slurm_is_asked_for_memory_and_cores_of_all_ranks():
    with get_runner() as runner:
        job = f"{ROOT}/components/launch.py:train"
        info = runner.dryrun_component(job, ["--nproc", "2", "--nodes", "2", "--max_retries", "3"], "slurm")
    script = str(info)
    assert script.count("--requeue --ntasks-per-node=1 --cpus-per-task=2 --mem=8192") == 2
    assert "export TORCHX_MAX_RETRIES=3" in script


def test_torchrun_that_is_stopped_says_so_in_a_line():
    command = "-m skipwise.components.one_node --nproc-per-node 1 --no-python sleep 60".split()
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "skipwise: stopped by SIGTERM" in said and "Traceback" not in said


def test_a_recipe_is_handed_on():
    (role,) = app_of("train", "--recipe", "best", "--", "--seed", "1").roles
    assert role.args[1].endswith("-m skipwise train best --seed 1")


def test_prepare_is_one_process():
    (role,) = app_of("prepare", "--cpu", "8", "--memory_mb", "9000", "--", "--input", "log.csv").roles
    assert (role.num_replicas, role.resource.cpu, role.resource.memMB) == (1, 8, 9000)
    assert [role.entrypoint, *role.args] == ["python", "-m", "skipwise", "prepare", "--input", "log.csv"]


def test_as_many_shards_as_prepare_takes():
    (role,) = app_of("prepare", "--shards", str(MOST_SHARDS), "--", "--input", "log", "--output", "data").roles
    assert role.num_replicas == MOST_SHARDS


def test_prepare_in_shards_is_a_process_for_each():
    app = app_of("prepare", "--shards", "3", "--memory_mb", "900", "--", "--input", "a log.csv", "--output", "$x")
    (role,) = app.roles
    assert (role.num_replicas, role.resource.cpu, role.resource.memMB, role.entrypoint) == (3, 2, 900, "bash")
    assert role.args[0] == "-c" and role.args[1].startswith("exec python -m skipwise prepare ")
    words = shlex.split(role.args[1].replace("${replica_id}", "2"))
    assert words[5:] == "--input|a log.csv|--output|$x|--step|all|--shard|2/3".split("|")
    assert "'$x'" in role.args[1], "no shell reads what a user wrote"


def test_slurm_gets_a_job_that_runs_all_shards_at_once():
    with get_runner() as runner:
        words = ["--shards", "3", "--memory_mb", "900", "--", "--input", "log", "--output", "data"]
        script = str(runner.dryrun_component(f"{ROOT}/components/launch.py:prepare", words, "slurm"))
    assert script.count("--ntasks-per-node=1 --cpus-per-task=2 --mem=900") == 3 and script.count("#SBATCH hetjob") == 2
    line = "--input log --output data --step all --shard"
    assert [script.count(f"{line} {number}/3") for number in range(3)] == [1, 1, 1] and "${replica_id}" not in script


@pytest.mark.ranks
def test_a_local_job_prepares_in_shards(tmp_path: Path):
    for number in range(2):
        synthesize(SynthesizeConfig(tmp_path / f"{number}.csv", sessions=100, tracks=60, clusters=5, seed=number))
        (tmp_path / "log").mkdir(exist_ok=True)
        lines = (tmp_path / f"{number}.csv").read_text().splitlines()
        named = [lines[0], *(f"{number}{line}" for line in lines[1:])]
        (tmp_path / "log" / f"{number}.csv").write_text("\n".join(named) + "\n")
    prepare(PrepareConfig(input=(tmp_path / "log",), output=tmp_path / "whole"))
    component = f"{ROOT}/components/launch.py:prepare"
    words = ["--shards", "2", "--", "--input", "log", "--output", "data"]
    done = torchx("run", "-s", "local_cwd", component, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "waits for shard 0 to merge" in done.stderr
    compared = subprocess.run(["diff", "-r", tmp_path / "whole", tmp_path / "data"], capture_output=True, text=True)
    assert compared.returncode == 0, compared.stdout


def test_torchx_loads_the_appdefs_without_torch():
    program = "import sys; sys.modules['torch'] = None; import skipwise.components.launch, skipwise.common.failure"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_an_option_that_is_not_there_is_refused_by_torchx():
    assert torchx("run", "--dryrun", "components/launch.py:train", "--nprocs", "2").returncode != 0


def test_a_rank_that_fails_fails_the_job_and_its_words_come_last(tmp_path):
    """Rank 1 alone fails, at once, on two real ranks: rank 0 has nothing to say of it."""
    (tmp_path / ".torchxconfig").write_text((ROOT / ".torchxconfig").read_text().replace("m = skipwise", "m = job"))
    (tmp_path / "job.py").write_text(
        textwrap.dedent(
            """
            import os, time
            from skipwise.components import __main__ as command
            from skipwise.common.errors import UserError

            def run(argv):
                if os.environ["RANK"] == "1":
                    raise UserError("part-1.parquet is torn: run prepare again")
                time.sleep(60)

            command.run = run
            command.main()
            """
        )
    )
    done = torchx("run", "dist.ddp", "-j", "1x2", "train", cwd=tmp_path)
    assert done.returncode == 1
    assert "exitcode  : 2" in done.stderr
    status = done.stderr[done.stderr.index("AppStatus") :]
    assert "skipwise: part-1.parquet is torn: run prepare again" in " ".join(status.split())


LISTENING = """
import os, threading, time
from pathlib import Path

def listening(process):
    inodes = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:
            pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1])
    return found

def watch():
    seen = set()
    while True:
        for process, who in ((os.getppid(), "agent"), (os.getpid(), "rank")):
            for address in listening(process) - seen:
                seen.add(address)
                with open(os.environ["SEEN"], "a") as file:
                    file.write(f"{who} {address}\\n")
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
from skipwise.components import __main__ as command
command.main()
"""
LOOPBACK = "0100007F"


@pytest.mark.ranks
def test_training_on_one_node_listens_on_the_loopback_interface_alone(tmp_path):
    synthesize(SynthesizeConfig(tmp_path / "log.parquet", sessions=200, tracks=60, clusters=5))
    prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data"))
    config = (ROOT / ".torchxconfig").read_text().replace("m = skipwise", "m = job")
    config = config.replace("BASH_ENV=", f"SEEN={tmp_path}/seen,BASH_ENV={ROOT}/")
    (tmp_path / ".torchxconfig").write_text(config)
    (tmp_path / "job.py").write_text(LISTENING)
    words = "--data.path data --run-dir run --data.batch-size 32 --data.lanes 2 --data.workers 0 --data.negatives 20 "
    words += "--table.dim 16 --encoder.heads 2 --encoder.hidden 16 --train.epochs 1"
    done = torchx("run", "dist.ddp", "-j", "1x2", "train", *words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert {who for who, _ in seen} == {"agent", "rank"}
    assert {address.split(":")[0] for _, address in seen} == {LOOPBACK}, seen


def test_words_are_recorded_only_under_a_launcher(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    record("nobody listens")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    record("heard")
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"] == "heard"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "absent" / "error.json"))
    record("the launcher's folder is gone")


def test_a_refusal_is_not_tried_again_and_a_death_is(tmp_path, monkeypatch):
    """torchrun keeps last words in attempt_N/LOCAL_RANK/error.json, and starts ranks anew whatever they said."""

    def at(attempt: int) -> bool:
        folder = tmp_path / f"attempt_{attempt}" / "0"
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
        return failure.refused_before()

    assert not at(0)
    record("skipwise: rank 1 has not moved")
    assert not at(1)
    (tmp_path / "attempt_1" / "0" / "error.json").write_text('{"message": "torn')
    assert not at(2)
    record("skipwise: part-1.parquet is torn", refused=True)
    assert at(3) and at(4), "it is said again at every further attempt"
    assert "part-1.parquet is torn" in (tmp_path / "attempt_4" / "0" / "error.json").read_text()


def test_only_rank_0_fails_without_delay(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        failure.wait_for_rank_0()
    monkeypatch.delenv("RANK")
    failure.wait_for_rank_0()
    assert slept == [failure.GRACE_S]


def test_a_rank_that_the_system_killed_is_named():
    """As the kernel does where memory runs out; the other rank ends by itself."""
    command = "-m skipwise.components.one_node --nproc-per-node 2 --no-python bash -c".split()
    done = subprocess.run(
        [sys.executable, *command, "[ $RANK = 0 ] || kill -9 $BASHPID; exec sleep 60"],
        env=os.environ | {"LOGLEVEL": "ERROR"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    said = "skipwise: rank 1 was killed by the system (exit code -9), as a rule for memory: use more machines, "
    assert said in done.stderr[: done.stderr.index("ChildFailedError")] and done.stderr.count("skipwise: rank") == 1
