"""One real process: over a socket, under signals, and against a body that never ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

BODY = {"session": [{"track": "t_001"}]}


class Running:
    """The command, as a user starts it."""

    def __init__(self, export: Path):
        words = "-m skipwise serve --port 0 --reload-s 0 --drain-s 1 --max-batch 8 --max-wait-ms 400 --export"
        self.process = subprocess.Popen(
            [sys.executable, *words.split(), str(export)], stderr=subprocess.PIPE, text=True
        )
        said = self.process.stderr.readline()
        assert said.startswith("serving 300 tracks at http://127.0.0.1:"), said
        self.url = said.split()[-1]

    def socket(self) -> socket.socket:
        address = urlsplit(self.url)
        return socket.create_connection((address.hostname, address.port), timeout=20)


@pytest.fixture(scope="module")
def running(export: Path, tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served") / "export"
    shutil.copytree(export, folder)
    running = Running(folder)
    running.folder = folder
    yield running
    running.process.kill()
    running.process.wait()
    running.process.stderr.close()


@pytest.mark.parametrize("head", ["Transfer-Encoding: chunked", f"Content-Length: {1 << 30}"])
def test_a_gigabyte(running: Running, head: str):
    """Refused with an answer that the client can read, long before all of it is sent."""
    piece, sent = b"x" * 65536, 0
    with running.socket() as client:
        client.sendall(f"POST /recommend HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        while sent < 1 << 30:
            try:
                client.sendall(b"10000\r\n" + piece + b"\r\n" if "chunked" in head else piece)
            except OSError:
                break
            sent += len(piece)
            client.setblocking(False)
            try:
                if client.recv(1, socket.MSG_PEEK):
                    break
            except BlockingIOError:
                pass
            client.settimeout(20)
        client.settimeout(20)
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert sent < 16 << 20
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_sighup_takes_the_newer_export(running: Running, other: Path):
    with httpx.Client(base_url=running.url) as client:
        before = client.get("/health").json()["exports"]["main"]["loaded"]
        os.rename(running.folder, running.folder.with_name("replaced"))
        shutil.copytree(other, running.folder)
        running.process.send_signal(signal.SIGHUP)
        ends = time.monotonic() + 30
        while (main := client.get("/health").json()["exports"]["main"])["loaded"] == before:
            assert time.monotonic() < ends
            time.sleep(0.05)
        assert main["vocabulary_hash"] == f"{1:064}"


def test_sigterm_answers_what_is_in_flight(running: Running):
    """The last in this file, for it ends the process. A request waits 400 ms for others, and is then in flight."""
    responses, client = [], httpx.Client(base_url=running.url, timeout=60)
    assert client.get("/health").status_code == 200  # it is connected
    asking = threading.Thread(target=lambda: responses.append(client.post("/recommend", json=BODY)))
    asking.start()
    time.sleep(0.2)
    assert not responses
    running.process.send_signal(signal.SIGTERM)
    asking.join()
    with httpx.Client(base_url=running.url) as late:  # one that has not noticed, and a probe
        assert late.post("/recommend", json=BODY).status_code == 200
        assert (answer := late.get("/ready")).status_code == 503 and answer.headers["connection"] == "close"
        assert late.get("/health").status_code == 200
    assert responses[0].status_code == 200 and len(responses[0].json()["tracks"]) == 10
    assert running.process.wait(timeout=20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/health")
