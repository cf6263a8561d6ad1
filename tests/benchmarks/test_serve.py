"""The open loop charges a stall to all who waited, keeps its moments, and counts what fails; the report; refusals."""

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import Queue

import numpy as np
import pytest

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness import open_loop, wrk
from skipwise.benchmarks.harness.config import ServeBenchmarkConfig
from skipwise.benchmarks.harness.open_loop import play
from skipwise.common.errors import UserError

ANSWER = b"HTTP/1.1 %d Said\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def server(statuses: list[int], stall_s: float, idle_s: float | None = None) -> Iterator[int]:
    """Answers one request after the other with `statuses`, the first after `stall_s`; yields the port.

    What is idle for `idle_s` is closed.
    """
    turn, left = asyncio.Lock(), iter([(stall_s, statuses[0]), *((0.0, status) for status in statuses[1:])])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), idle_s)).decode()
                await reader.readexactly(int(head.split("Content-Length: ")[1].split("\r\n")[0]))
                async with turn:
                    wait, status = next(left)
                    await asyncio.sleep(wait)
                writer.write(ANSWER % status)
        except (asyncio.IncompleteReadError, TimeoutError):
            writer.close()

    ports: Queue = Queue()

    async def serve() -> None:
        done = asyncio.Event()
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            loop = asyncio.get_running_loop()
            ports.put((listening.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(done.set)))
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, stop = ports.get()
    yield port
    stop()
    thread.join()


def test_a_stall_is_charged_to_all_who_waited():
    """100 requests within half a second, the first of which holds up all: a closed loop would see one slow one."""
    with server([200] * 100, stall_s=0.4) as port:
        played = play(port, [b"{}"], 200, 0.5, np.random.default_rng(0))
    assert played.errors == 0 and len(played.latencies) == 100
    assert played.latencies[0] >= 0.4
    planned = np.cumsum(np.random.default_rng(0).exponential(1 / 200, 100))
    held_up = planned < 0.3
    assert held_up.sum() > 30
    assert (played.latencies[held_up] > 0.09 + planned[0]).all()


def test_errors_are_counted():
    with server([200, 503, 404] * 10, stall_s=0) as port:
        played = play(port, [b"{}", b"{ }"], 1000, 0.03, np.random.default_rng(0))
    assert played.errors == 20
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert play(port, [b"{}"], 1000, 0.005, np.random.default_rng(0)).errors == 5


@pytest.mark.parametrize("old_s", [60.0, 0.1])
def test_connections_that_the_service_closed_are_not_used(monkeypatch: pytest.MonkeyPatch, old_s: float):
    """What the service may close while nobody asks would be counted as its failure. The first 20 come at one moment."""
    monkeypatch.setattr(open_loop, "IDLE_S", old_s)
    moments = np.r_[np.zeros(20), np.full(20, 0.6)]
    with server([200] * 40, stall_s=0, idle_s=0.3) as port:
        assert asyncio.run(open_loop._play(open_loop._Client(port), [b"{}"] * 40, moments)).errors == 0


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a service that is not there but in name: its start is tested elsewhere."""
    from skipwise.benchmarks import serve

    answered = iter((0, 40))

    def figures(port, process):
        requests = next(answered)
        return {"cpu_s": requests / 100, "requests": requests, "batches": requests / 2, "resident_bytes": 1 << 20}

    def played(port, bodies, rate, seconds, random):
        assert json.loads(bodies[0])["k"] == 7
        return serve.Round(np.full(20, 0.02), np.zeros(20), 1)

    monkeypatch.setattr(serve, "_service", lambda config: nullcontext((0, 0)))
    monkeypatch.setattr(serve, "_figures", figures)
    monkeypatch.setattr(serve, "play", played)
    monkeypatch.setattr(serve, "_bodies", lambda config, random: ([b'{"k": 7}'], 1234))
    run(["serve", "--export", "anything", "--rounds", "2", "--output", str(tmp_path)])
    (file,) = tmp_path.glob("*-serve.json")
    content = json.loads(file.read_text())
    assert content["milliseconds"]["p99"] == pytest.approx(20)
    assert (content["requests"], content["errors"]) == (40, 2)
    assert content["samples"]["1 s / P99"] == pytest.approx([50, 50])
    page = file.with_suffix(".md").read_text()
    assert "1,234 tracks" in page and "2.00 requests a batch, 10.0 ms of CPU" in page


@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")
def test_wrk_counts_the_same():
    """A third of the answers are errors."""
    with server([200, 503, 200] * 2000, stall_s=0) as port:
        played = wrk.play(port, [b"{}", b"{ }"], 100, 2, np.random.default_rng(0))
    assert 100 < len(played.latencies) < 300
    assert len(played.latencies) / 4 < played.errors < len(played.latencies) / 2
    assert (played.latencies >= 0).all() and played.latencies.mean() < 1


def test_wrk_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="apt-get install wrk"):
        wrk.play(1, [b"{}"], 100, 1, np.random.default_rng(0))


@pytest.mark.parametrize(("field", "value"), [("rate", 0), ("seconds", 0), ("rounds", 0), ("k", 1001), ("workers", 0)])
def test_refusals(field: str, value: int):
    with pytest.raises(ValueError, match=f"--{field}"):
        ServeBenchmarkConfig(export="anything", **{field: value})
