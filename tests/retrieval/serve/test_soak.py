"""Two workers under load, reloads and deltas for SKIPWISE_SOAK_S seconds: nothing is lost, nothing grows."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from skipwise.benchmarks.harness.open_loop import Round, play
from skipwise.benchmarks.serve import _figures
from tests.retrieval.serve.test_live_rows import config, made  # noqa: F401 (fixtures)
from tests.support.following import TRACKS

SECONDS = float(os.environ.get("SKIPWISE_SOAK_S", "60"))
RATE = 150.0
STEP_S = 2.0
"""Between two changes: four deltas, one after the other, then a newer copy of the export without them."""
GROWTH_MIB = 24.0
"""Between the middle third and the last one, of both workers together."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 300)]


@pytest.fixture
def service(made: dict[str, Path], tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int]]:  # noqa: F811
    shutil.copytree(made["base"], tmp_path / "export")
    (tmp_path / "deltas").mkdir()
    options = f"--workers 2 --port 0 --reload-s 0.4 --export {tmp_path / 'export'} --deltas {tmp_path / 'deltas'}"
    words = [sys.executable, "-m", "skipwise", "serve", *options.split()]
    with open(tmp_path / "said", "w") as said, subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        serving = next(line for line in process.stderr if line.startswith("serving "))  # behind a warning of no deltas
        port = urlsplit(serving.split()[-1]).port
        threading.Thread(target=lambda: said.writelines(process.stderr), daemon=True).start()
        yield process, port
        process.terminate()
        assert process.wait(60) == 0


def test_nothing_is_lost_and_nothing_grows(service: tuple[subprocess.Popen, int], made, tmp_path: Path):  # noqa: F811
    process, port = service
    body = b'{"session": [{"track": "t_00001"}, {"track": "t_00002", "skipped": true}]}'
    rounds: list[Round] = []
    random = np.random.default_rng(0)
    asking = threading.Thread(target=lambda: rounds.append(play(port, [body], RATE, SECONDS, random)))
    asking.start()
    memory, changes = [], 0
    while asking.is_alive():
        number = changes % 5
        if number < 4:
            name = f"{number + 1:08}"
            shutil.copytree(made["two-parts"] / name, tmp_path / "deltas" / f".{name}")
            (tmp_path / "deltas" / f".{name}").rename(tmp_path / "deltas" / name)
        else:
            shutil.copytree(made["base"], tmp_path / "next")
            (tmp_path / "deltas").rename(tmp_path / "gone")
            (tmp_path / "deltas").mkdir()
            (tmp_path / "export").rename(tmp_path / "old")
            (tmp_path / "next").rename(tmp_path / "export")
            shutil.rmtree(tmp_path / "old")
            shutil.rmtree(tmp_path / "gone")
        changes += 1
        asking.join(STEP_S)
        memory.append(_figures(port, process.pid)["resident_bytes"] / 2**20)
    (played,) = rounds
    middle, last = (float(np.mean(third)) for third in np.array_split(memory, 3)[1:])
    late = np.percentile(played.latencies, 99) * 1000
    print(f"{len(played.latencies)} requests, {played.errors} lost, P99 {late:.0f} ms, {changes} changes, ", end="")
    print(f"MiB by thirds: {[round(float(np.mean(third))) for third in np.array_split(memory, 3)]}, {TRACKS} tracks")
    assert played.errors == 0, (tmp_path / "said").read_text()
    assert last - middle < GROWTH_MIB, memory
