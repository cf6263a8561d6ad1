"""`peers`: other libraries on the work of `step`, each in an environment of its own, in turn with ours."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import PeerName, PeersConfig
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.common.distributed import logger, world_size
from skipwise.common.errors import UserError
from skipwise.components.recipes import named_recipe

SCRIPTS = Path(__file__).parent / "baselines" / "peer_scripts"
"""NAME.txt with the packages of an environment, and run_NAME.py that runs in it."""
INSTALLED = "installed.txt"
SESSIONS = 4096
LENGTH = 20
"""Tracks of the longest session, as in `step`."""
RECIPE = "unidir"
"""What of ours is compared: no skip loss, for the peers have none."""


class Peer(NamedTuple):
    """A peer's work and ours beside it."""

    environment: str
    negatives: str
    """As `peer_scripts/work.py` names them."""
    ours: str
    """Our kind of negatives: the same, or the next kind that asks for no less of us."""
    loss: str


PEERS: dict[PeerName, Peer] = {
    "replay-shared": Peer("replay", "shared", "shared", "RePlay SasRec, CESampled, negatives shared"),
    "replay-per-session": Peer("replay", "per-session", "per-session", "RePlay SasRec, CESampled, a session's own"),
    "rectools-bce": Peer("rectools", "one", "shared", "RecTools SASRec, BCE, 1 negative a position"),
    "rectools-sampled": Peer(
        "rectools", "per-position", "per-session", "RecTools SASRec, sampled softmax, a position's"
    ),
}


def measure(config: PeersConfig) -> Report:
    """Starts a process of ours and one of the peer in turn, for each peer."""
    if world_size() > 1:
        raise UserError("peers run in one process each: start `peers` without torchrun")
    folder = Path(config.environments)
    pythons = {name: python_of(PEERS[name].environment, folder) for name in config.peers}
    found: dict[PeerName, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        write_sessions(config, Path(scratch))
        for name in config.peers:
            logger.info(f"{name}: {config.rounds} rounds of ours and the peer")
            found[name] = [
                (run_ours(config, PEERS[name], Path(scratch)), run_peer(config, name, pythons[name], Path(scratch)))
                for _ in range(config.rounds)
            ]
    return make_report(config, found)


def python_of(name: str, folder: Path) -> Path:
    """The Python of the environment `name` in `folder`, which is created if it is missing or has other packages.

    Raises `UserError` where pip cannot install it, and removes what it installed.
    """
    environment, requirements = folder / name, SCRIPTS / f"{name}.txt"
    python = (environment / "bin" / "python").absolute()
    marker, wanted = environment / INSTALLED, requirements.read_text(encoding="utf-8")
    if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
        return python
    if environment.exists() and not (environment / "pyvenv.cfg").is_file():
        raise UserError(f"{environment} exists and is no virtual environment: choose another --environments")
    shutil.rmtree(environment, ignore_errors=True)
    logger.info(f"installing {name} into {environment}: some minutes and 2 GB")
    called, pip = f"the environment of {name}", [str(python), "-m", "pip", "install", "--quiet"]
    try:
        _finish(called, [sys.executable, "-m", "venv", str(environment)], "cannot be installed")
        _finish(called, [*pip, "--disable-pip-version-check", "-r", str(requirements)], "cannot be installed")
    except BaseException:
        shutil.rmtree(environment, ignore_errors=True)
        raise
    marker.write_text(wanted, encoding="utf-8")  # last: an incomplete environment has none
    return python


def write_sessions(config: PeersConfig, scratch: Path) -> None:
    """The sessions that `step` draws, for the peers' scripts."""
    flat = MemoryStore(SESSIONS, config.tracks, LENGTH).read(np.zeros(1, dtype=np.int64))
    np.savez(scratch / "sessions.npz", tracks=flat.tracks, offsets=flat.offsets)


def run_ours(config: PeersConfig, peer: Peer, scratch: Path) -> dict[str, Any]:
    """What `step` reports of our side, in a process of its own."""
    result = scratch / "ours.json"
    options = {
        "recipe": RECIPE,
        "baseline": "none",
        "negatives": peer.ours,
        "tracks": config.tracks,
        "batch": config.batch,
        "length": LENGTH,
        "rounds": config.steps,
        "warmup": config.warmup,
        "threads": config.threads,
        "json": result,
        "output": scratch / "step",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    _finish("our step", [sys.executable, "-m", "skipwise.benchmarks", "step", *words])
    return json.loads(result.read_text(encoding="utf-8"))["ours"]


def run_peer(config: PeersConfig, name: PeerName, python: Path, scratch: Path) -> dict[str, Any]:
    """What the peer's script prints: `seconds` of each step, `peak_bytes` and `versions`."""
    peer, recipe = PEERS[name], named_recipe(RECIPE)
    work = {
        "sessions": str(scratch / "sessions.npz"),
        "tracks": config.tracks,
        "dim": recipe.table.dim,
        "blocks": recipe.encoder.blocks,
        "heads": recipe.encoder.heads,
        "hidden": recipe.encoder.hidden,
        "dropout": recipe.encoder.dropout,
        "length": LENGTH,
        "batch": config.batch,
        "negatives": peer.negatives,
        "count": 1 if peer.negatives == "one" else recipe.data.negatives,
        "steps": config.steps,
        "warmup": config.warmup,
        "threads": config.threads,
    }
    file = scratch / "work.json"
    file.write_text(json.dumps(work), encoding="utf-8")
    output = _finish(name, [str(python), str(SCRIPTS / f"run_{peer.environment}.py"), str(file)])
    return json.loads(output.splitlines()[-1])


def _finish(name: str, command: list[str], problem: str = "failed") -> str:
    """What a process prints; raises `UserError` with the error that it reports where it fails."""
    alone = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode < 0:
        raise UserError(
            f"{name} was ended by signal {-done.returncode}, perhaps for lack of memory: lower --tracks or --batch"
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it printed no error"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise UserError(f"{name} {problem} ({reason.strip()}): leave it out with --peers")
    return done.stdout


def make_report(config: PeersConfig, found: dict[PeerName, list[tuple[dict[str, Any], dict[str, Any]]]]) -> Report:
    """A row a peer: medians over the rounds of each process's median step."""
    rows: list[list[str]] = []
    samples: dict[str, list[float]] = {}
    figures: dict[str, Any] = {}
    for name, rounds in found.items():
        ours = [of["p50_ms"] for of, _ in rounds]
        theirs = [1000 * float(np.median(of["seconds"])) for _, of in rounds]
        samples[name] = [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
        figures[name] = {"ours_ms": ours, "peer_ms": theirs, "peer": [of for _, of in rounds]}
        versions = rounds[0][1]["versions"]
        rows.append(
            [
                PEERS[name].loss,
                " ".join(next(iter(versions.items()))),
                f"{np.median(theirs):.0f}",
                f"{1000 * config.batch / np.median(theirs):,.0f}",
                f"{PEERS[name].ours}: {np.median(ours):.0f}",
                f"{np.median(theirs) / np.median(ours):.1f}",
                f"{max(of['peak_bytes'] for _, of in rounds) / 2**20:,.0f}",
            ]
        )
    recipe = asdict(named_recipe(RECIPE).encoder)
    notes = [
        f"x: times faster ours is, as the ratio of medians over {config.rounds} processes each, in turn. Ours is the "
        f"recipe {RECIPE}; width, {recipe['blocks']} blocks, {recipe['heads']} heads and dropout are the same.",
        "1000 negatives unless another number is given. RecTools' BCE compares with one, ours beside it with 1000.",
        "Batches are made before the clock starts, on both sides. RecTools' full softmax would need "
        f"{config.batch * LENGTH * config.tracks * 4 / 2**30:,.0f} GiB of logits a batch and is left out.",
    ]
    header = ["peer", "version", "ms P50", "sessions/s", "ours ms", "x", "peak MiB"]
    return Report("peers", "Other libraries on the same step", {"peers": figures}, samples, header, rows, notes)
