"""Several real processes on one port: what they share, what they count together, and how they end."""

import gc
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from skipwise.common.errors import UserError
from skipwise.retrieval import shared_rows
from skipwise.retrieval.open_export import OpenExport
from tests.retrieval.serve.conftest import Oracle
from tests.support.waiting import wait_until

BODY = {"session": [{"track": "t_001"}]}
COUNT = 'skipwise_requests_total{code="200",path="/recommend"}'


class Running:
    """The command, as a user starts it."""

    def __init__(self, folder: Path):
        self.scratch = folder / "scratch"
        words = "-m skipwise serve --port 0 --reload-s 0 --workers 2 --export"
        self.process = subprocess.Popen(
            [sys.executable, *words.split(), str(folder / "export")],
            env=os.environ | {"TMPDIR": str(self.scratch)},
            stderr=subprocess.PIPE,
            text=True,
        )
        said = self.process.stderr.readline()
        assert said.startswith("serving 300 tracks at http://127.0.0.1:"), said
        self.url = said.split()[-1]
        wait_until(lambda: len(self.workers()) == 2 and all(map(maps_of_table, self.workers())))

    def workers(self) -> list[int]:
        return [*map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())]

    def ask(self, requests: int = 1) -> list[str]:
        """The first track of each answer, each over a connection of its own."""
        answers = [httpx.post(f"{self.url}/recommend", json=BODY, timeout=30) for _ in range(requests)]
        return [answer.json()["tracks"][0]["track"] for answer in answers]

    @contextmanager
    def alone(self, worker: int) -> Iterator[None]:
        """The others are stopped, so that this one is asked."""
        others = [one for one in self.workers() if one != worker]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            yield
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)

    def count(self, name: str) -> float:
        """Of /metrics."""
        found = re.findall(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)
        return float(found[0]) if found else 0.0


def maps_of_table(process: int) -> set[str]:
    """The inodes of the table's files that a process has mapped."""
    maps = Path(f"/proc/{process}/maps").read_text()
    return {line.split()[4] for line in maps.splitlines() if line.endswith(".rows")}


@pytest.fixture(scope="module")
def running(export: Path, tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(export, folder / "export")
    (folder / "scratch").mkdir()
    running = Running(folder)
    yield running
    running.process.kill()
    running.process.wait()
    running.process.stderr.close()


def test_each_answers_from_one_table_and_all_are_counted(running: Running, oracle: Oracle):
    first, second = running.workers()
    assert maps_of_table(first) == maps_of_table(second) and len(maps_of_table(first)) == 1
    (best, _), *_ = oracle.recommend([("t_001", False)])
    before = running.count(COUNT)
    for worker, requests in ((first, 3), (second, 4)):
        with running.alone(worker):
            assert running.ask(requests) == [best] * requests
            assert running.count(COUNT) == before + (3 if worker == first else 7)
    assert running.count('skipwise_queue_depth{kind="recommend"}') == 0


def test_a_newer_export_is_taken_by_all(running: Running, other: Path):
    folder = running.scratch.parent / "export"
    (older,) = maps_of_table(running.workers()[0])
    folder.rename(folder.with_name("replaced"))
    shutil.copytree(other, folder)
    assert running.count('skipwise_export_generation{export="main"}') == 1
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: running.count('skipwise_export_generation{export="main"}') == 2)
    wait_until(lambda: len({*maps_of_table(running.workers()[0]), *maps_of_table(running.workers()[1])}) == 1)
    assert older not in maps_of_table(running.workers()[0])
    (best, _), *_ = Oracle(other).recommend([("t_001", False)])
    assert running.ask(8) == [best] * 8
    wait_until(lambda: len([*running.scratch.glob("*/*.rows")]) == 1)


def test_one_that_is_killed_is_replaced(running: Running):
    killed, left = running.workers()
    requests = running.count(COUNT)
    os.kill(killed, signal.SIGKILL)
    said = [running.process.stderr.readline() for _ in range(3)]  # the first two: of the newer export
    assert f"worker process {killed} ended with -9: another one takes its place" in said[2]
    running.ask(3)
    wait_until(lambda: len(running.workers()) == 2 and all(map(maps_of_table, running.workers())))
    assert left in running.workers()
    assert running.count(COUNT) == requests + 3, "what the killed one has counted stays"


def test_all_end_together(running: Running):
    """The last of `running`."""
    workers = running.workers()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert [*running.scratch.iterdir()] == []
    with pytest.raises(httpx.ConnectError):
        running.ask()


def test_an_export_that_is_refused_ends_the_command(export: Path, tmp_path: Path):
    shutil.copytree(export, tmp_path / "export")
    (tmp_path / "export" / "manifest.json").unlink()
    (tmp_path / "scratch").mkdir()
    options = "serve --workers 3 --port 0 --export".split()
    words = [sys.executable, "-m", "skipwise", *options, str(tmp_path / "export")]
    environment = os.environ | {"TMPDIR": str(tmp_path / "scratch")}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stderr.count("skipwise: ") == 1, ended.stderr
    assert [*(tmp_path / "scratch").iterdir()] == []


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables are mapped from files of this folder."""
    monkeypatch.setattr(shared_rows, "_folder", tmp_path)
    return tmp_path


def test_mapped_rows_are_those_of_the_export(export: Path, shared: Path, monkeypatch: pytest.MonkeyPatch):
    rows = np.arange(300)
    first = OpenExport.open(export)
    (file,) = shared.glob("*.rows")
    monkeypatch.setattr(shared_rows, "_write", None)  # the second one writes nothing
    second = OpenExport.open(export)
    monkeypatch.setattr(shared_rows, "_folder", None)
    expected_RD = OpenExport.open(export).vectors.take(rows)
    assert np.array_equal(first.vectors.take(rows), expected_RD)
    assert np.array_equal(np.fromfile(file, np.float32).reshape(300, -1), expected_RD)
    next(first.vectors.blocks())[1][:] = 0
    assert not first.vectors.take(rows).any() and np.array_equal(second.vectors.take(rows), expected_RD)


def test_files_are_kept_as_long_as_they_are_mapped(export: Path, other: Path, shared: Path):
    first, second = OpenExport.open(export), OpenExport.open(other)
    shared_rows.remove_unused()
    assert len([*shared.glob("*.rows")]) == 2
    del first
    gc.collect()
    shared_rows.remove_unused()
    assert len([*shared.glob("*.rows")]) == 1 and second.vectors.take(np.arange(3)).all()


def test_a_folder_without_room_is_refused(export: Path, shared: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="cannot take the table .*TMPDIR"):
            OpenExport.open(export)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in shared.iterdir()] == ["lock"]
