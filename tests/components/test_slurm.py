"""Jobs of a real Slurm, on one node of two cores: training submitted by TorchX, requeued in the middle, resumed; the
arrays of docs/data.md, which prepare a log in shards.

Needs Debian's `slurm-wlm` and `munge`, and root: `apt-get install slurm-wlm munge`.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SMALL = (
    "--data.batch-size 32 --data.lanes 2 --data.negatives 20 --table.dim 16 --encoder.heads 2 --encoder.hidden 16 "
    "--train.epochs 15 --train.patience 15"
)
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={place}/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=10000
PartitionName=main Nodes=ALL Default=YES State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(os.getuid() != 0 or not all(map(shutil.which, PROGRAMS)), reason="needs root, Slurm and munge"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find a cluster of this machine alone."""
    place = tmp_path / "slurm"
    (place / "state").mkdir(parents=True)
    (place / "spool").mkdir()
    (place / "munge.key").write_bytes(os.urandom(1024))
    (place / "munge.key").chmod(0o400)
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in listening]
    for each in listening:
        each.close()
    (place / "slurm.conf").write_text(CONFIG.format(host=socket.gethostname().split(".")[0], ports=ports, place=place))
    environment = os.environ | {"SLURM_CONF": str(place / "slurm.conf")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    words = [f"--{option}={place}/munge.{suffix}" for option, suffix in files.items()]
    for command in (["munged", "--force", *words], ["slurmctld", "-c"], ["slurmd"]):
        subprocess.run(command, env=environment, check=True)
    yield environment
    subprocess.run(["scancel", "--user", "root"], env=environment)
    for _ in range(60):
        if not subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True).stdout:
            break
        time.sleep(0.5)
    for name in ("slurmd", "slurmctld", "munge"):
        if (file := place / f"{name}.pid").exists():
            os.kill(int(file.read_text()), 15)


def test_a_job_that_is_requeued_resumes(slurm: dict[str, str], tmp_path: Path):
    synthesize(SynthesizeConfig(tmp_path / "log.parquet", sessions=400, tracks=200, clusters=5))
    prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data"))
    shutil.copytree(ROOT / "components", tmp_path / "components")
    shutil.copy(ROOT / ".torchxconfig", tmp_path)

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=slurm, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        return done.stdout + done.stderr

    submitted = run(
        *"torchx run -s slurm components/launch.py:train --nproc 2 --memory_mb 6000 --".split(),
        *f"--data.path data --run-dir run {SMALL}".split(),
    )
    # Without accounting (slurmdbd) TorchX cannot ask what became of a job, and ends with Slurm's error.
    job = submitted.split("slurm://torchx/")[1].split()[0]
    log = tmp_path / f"slurm-{job}-skipwise-0.err"

    def said() -> str:
        return f"{run('squeue')}\n{submitted}\n{log.read_text() if log.exists() else ''}"

    assert "TRES=cpu=2,mem=6000M" in run("scontrol", "show", "job", job)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, 120, said, every=0.5)
    run("scontrol", "requeue", job)
    # Slurm starts a requeued job two minutes later.
    run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: "Restarts=1" in run("scontrol", "show", "job", job), 60, said, every=0.5)
    wait_until(lambda: (tmp_path / "run" / "metrics.json").exists(), 400, said, every=0.5)
    assert "goes on from checkpoint" in log.read_text(), said()
    validated = [
        line["epoch"] for line in map(json.loads, metrics.read_text().splitlines()) if line["kind"] == "validation"
    ]
    assert validated == list(range(1, 16)), "an epoch is missing, or stands there twice"


def test_arrays_prepare_a_log_in_shards(slurm: dict[str, str], tmp_path: Path):
    """The lines of docs/data.md, with 3 shards in place of 64."""
    for number in range(3):
        log = SynthesizeConfig(
            tmp_path / "log" / f"{number}.parquet", sessions=200, tracks=100, clusters=5, seed=number
        )
        log.output.parent.mkdir(exist_ok=True)
        synthesize(log)
        table = pq.read_table(log.output)
        ids = pc.binary_join_element_wise(table["session_id"], str(number), "-")
        pq.write_table(table.set_column(0, "session_id", ids), log.output)
    prepare(PrepareConfig(input=(tmp_path / "log",), output=tmp_path / "whole"))
    (tmp_path / "options").write_text("--input log --output data\n")
    page = (ROOT / "docs/data.md").read_text()
    (block,) = re.findall(r"```bash\n(read=.*?)```", page, re.DOTALL)
    script = block.replace("0-63", "0-2").replace("/64", "/3").replace("--mem 4G", "--mem 2G").replace("8G", "4G")
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=slurm, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def said() -> str:
        queue = subprocess.run(["squeue"], env=slurm, capture_output=True, text=True).stdout
        return queue + "".join(file.read_text() for file in sorted(tmp_path.glob("slurm-*.out")))

    wait_until(lambda: (tmp_path / "data" / "manifest.json").exists(), 500, said, every=0.5)
    compared = subprocess.run(["diff", "-r", tmp_path / "whole", tmp_path / "data"], capture_output=True, text=True)
    assert compared.returncode == 0, compared.stdout
