"""What `peers` gives its processes and makes of their answers; the peers themselves are not installed for tests."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skipwise.benchmarks import peers
from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness.config import PeersConfig
from skipwise.benchmarks.peers import INSTALLED, PEERS, SCRIPTS, python_of, run_ours, run_peer, write_sessions
from skipwise.common.errors import UserError

STAND_IN = """
import torch
from work import padded, read_work, report

work = read_work()
weight = torch.zeros(work.tracks, requires_grad=True)
batches = [{"rows": inputs_BT[inputs_BT >= 0]} for inputs_BT, _ in padded(work)]
report(work, batches, lambda batch: weight[batch["rows"]].sum(), torch.optim.SGD([weight], 0.1), "torch")
"""


@pytest.fixture
def scripts(monkeypatch, tmp_path: Path) -> Path:
    """A folder of scripts with one peer that needs torch alone."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "work.py").write_text((SCRIPTS / "work.py").read_text())
    (folder / "run_replay.py").write_text(STAND_IN)
    (folder / "replay.txt").write_text("./there-is-no-such-wheel.whl\n")
    monkeypatch.setattr(peers, "SCRIPTS", folder)
    return folder


def test_a_script_trains_on_the_sessions_of_step(scripts: Path, tmp_path: Path):
    config = PeersConfig(tracks=500, batch=8, steps=3, warmup=1, threads=1)
    write_sessions(config, tmp_path)
    found = run_peer(config, "replay-shared", Path(sys.executable), tmp_path)
    assert len(found["seconds"]) == 3 and min(found["seconds"]) > 0
    assert set(found["versions"]) == {"torch"}
    work = json.loads((tmp_path / "work.json").read_text())
    assert (work["negatives"], work["count"], work["hidden"], work["blocks"]) == ("shared", 1000, 128, 2)


def test_padding_as_worked_by_hand(monkeypatch, tmp_path: Path):
    spec = importlib.util.spec_from_file_location("work", SCRIPTS / "work.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    np.savez(tmp_path / "sessions.npz", tracks=np.array([5, 6, 7, 8, 9]), offsets=np.array([0, 3, 5]))
    settings = dict(tracks=10, dim=4, blocks=1, heads=1, hidden=4, dropout=0.0, negatives="one", count=1)
    settings |= dict(sessions=str(tmp_path / "sessions.npz"), length=5, batch=3, steps=1, warmup=0, threads=0)
    batches = list(module.padded(module.Work(**settings)))
    assert len(batches) == module.BATCHES
    assert batches[0][0].tolist() == [[-1, -1, 5, 6], [-1, -1, -1, 8], [-1, -1, 5, 6]]
    assert batches[0][1].tolist() == [[-1, -1, 6, 7], [-1, -1, -1, 9], [-1, -1, 6, 7]]
    assert batches[1][0].tolist()[0] == [-1, -1, -1, 8]


def test_our_side_is_the_step_alone(monkeypatch, tmp_path: Path):
    started = {}

    def finish(name: str, command: list[str]) -> str:
        started.update(zip(command[4::2], command[5::2], strict=True))
        Path(started["--json"]).write_text(json.dumps({"ours": {"p50_ms": 12.5}}))
        return ""

    monkeypatch.setattr(peers, "_finish", finish)
    found = run_ours(PeersConfig(tracks=77, steps=4), PEERS["rectools-sampled"], tmp_path)
    assert found == {"p50_ms": 12.5}
    expected = {"--baseline": "none", "--negatives": "per-session", "--tracks": "77", "--rounds": "4"}
    assert expected.items() <= started.items()


def test_sides_run_in_turn_and_the_ratio_is_of_medians(monkeypatch, tmp_path: Path):
    turns = []

    def ours(config, peer, scratch) -> dict:
        turns.append("ours")
        return {"p50_ms": 10.0 * len(turns)}

    def theirs(config, name, python, scratch) -> dict:
        turns.append(name)
        return {"seconds": [0.1, 0.3, 0.2], "peak_bytes": 3 * 2**20, "versions": {"replay-rec": "9.9", "torch": "9"}}

    monkeypatch.setattr(peers, "run_ours", ours)
    monkeypatch.setattr(peers, "run_peer", theirs)
    monkeypatch.setattr(peers, "python_of", lambda name, folder: Path(sys.executable))
    file = tmp_path / "peers.json"
    words = ["--peers", "replay-shared", "--rounds", "3", "--tracks", "500"]
    run(["peers", *words, "--output", str(tmp_path), "--json", str(file)])
    assert turns == ["ours", "replay-shared"] * 3
    samples = json.loads(file.read_text())["samples"]["replay-shared"]
    assert samples == pytest.approx([200 / 10, 200 / 30, 200 / 50])
    row = next(line for line in next(tmp_path.glob("*-peers.md")).read_text().splitlines() if "RePlay" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "replay-rec 9.9",
        "200",
        "1,280",
        "shared: 30",
        "6.7",
        "3",
    ]


def test_an_environment_is_made_once(scripts: Path, tmp_path: Path):
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay" / INSTALLED).write_text((scripts / "replay.txt").read_text())
    assert python_of("replay", tmp_path) == tmp_path / "replay" / "bin" / "python"


def test_an_environment_that_cannot_be_installed_leaves_nothing(scripts: Path, tmp_path: Path):
    command = [sys.executable, "-c", "from skipwise.benchmarks.__main__ import *; guarded(run, sys.argv[1:])"]
    with pytest.raises(UserError, match="the environment of replay cannot be installed .*: leave it out with --peers"):
        python_of("replay", tmp_path)
    assert not (tmp_path / "replay").exists()
    (tmp_path / "replay").mkdir()
    with pytest.raises(UserError, match="exists and is no virtual environment"):
        python_of("replay", tmp_path)
    words = ["peers", "--peers", "replay-shared", "--environments", str(tmp_path)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and "choose another --environments" in done.stderr


def test_a_process_that_fails_is_named(scripts: Path, tmp_path: Path):
    (scripts / "run_replay.py").write_text("raise ValueError('no such layer')")
    with pytest.raises(UserError, match=r"replay-shared failed \(ValueError: no such layer\)"):
        run_peer(PeersConfig(), "replay-shared", Path(sys.executable), tmp_path)
    (scripts / "run_replay.py").write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(
        UserError, match="replay-shared was ended by signal 9, perhaps for lack of memory: lower --tracks"
    ):
        run_peer(PeersConfig(), "replay-shared", Path(sys.executable), tmp_path)
