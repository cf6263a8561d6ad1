"""`serve`: how long recommendations take over HTTP when requests come as they like, 100 a second.

The load is open: requests are planned ahead as a Poisson process and sent at their moments whether or not earlier ones
have been answered, and a request's time runs from the moment it was planned for. A service that stalls is thus charged
for all who waited (a client that waits before it asks again would leave them out). The service is a process of its
own, started by the command; the client shares the machine's cores with it. There is no baseline to take turns with:
the figures are milliseconds.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from skipwise.benchmarks.harness import wrk
from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import SEED, ServeBenchmarkConfig
from skipwise.benchmarks.harness.open_loop import Round, play
from skipwise.benchmarks.harness.synthetic import Zipf
from skipwise.common.errors import UserError
from skipwise.retrieval.open_export import OpenExport

_PERCENTILES = (50, 90, 99, 100)
_BODIES = 1000
_LONGEST = 20
"""Tracks of the longest session; the shortest has one."""


def measure(config: ServeBenchmarkConfig) -> Report:
    """Starts the service, asks it, and stops it."""
    random = np.random.default_rng(SEED)
    bodies, tracks = _bodies(config, random)
    asked = {"own": play, "wrk": wrk.play}[config.tool]
    with _service(config) as (port, process):
        asked(port, bodies, config.rate, min(5.0, config.seconds), random)
        before = _figures(port, process)
        rounds = [asked(port, bodies, config.rate, config.seconds, random) for _ in range(config.rounds)]
        after = _figures(port, process)
    figures = {name: after[name] - before[name] for name in ("cpu_s", "requests", "batches")}
    return _report(config, rounds, figures | {"resident_bytes": after["resident_bytes"]}, tracks)


def _bodies(config: ServeBenchmarkConfig, random: np.random.Generator) -> tuple[list[bytes], int]:
    """Sessions of tracks by Zipf's law, every third play skipped; and how many tracks there are."""
    tracks = OpenExport.open(Path(config.export)).tracks
    zipf, bodies = Zipf(len(tracks), random), []
    for length in random.integers(1, _LONGEST + 1, _BODIES):
        names = tracks.ids(zipf.draw(length, random)).to_pylist()
        session = [{"track": name, "skipped": bool(random.random() < 1 / 3)} for name in names]
        bodies.append(json.dumps({"session": session, "k": config.k}).encode())
    return bodies, len(tracks)


@contextmanager
def _service(config: ServeBenchmarkConfig) -> Iterator[tuple[int, int]]:
    """The command, until the block ends; yields its port and process."""
    options = ["--export", config.export, "--port", "0", "--reload-s", "0", "--search", config.search]
    options += ["--workers", str(config.workers)]
    words = [sys.executable, "-m", "skipwise", "serve", *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        if not said.startswith("serving "):
            raise UserError(f"the service did not start: {said.strip()}")
        try:
            yield int(said.rsplit(":", 1)[1]), process.pid
        finally:
            process.terminate()
            process.communicate()


def _figures(port: int, process: int) -> dict[str, float]:
    """Batches and the requests in them, of /metrics; bytes of memory and seconds of CPU, of all processes.

    What several share is counted once (PSS).
    """
    memory_kb = ticks = 0
    for one in (process, *map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())):
        (pss,) = re.findall(r"^Pss: +(\d+) kB", Path(f"/proc/{one}/smaps_rollup").read_text(), re.MULTILINE)
        memory_kb += int(pss)
        ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#")]
    found = {name: float(value) for name, value in lines}
    return {
        "resident_bytes": memory_kb * 1024,
        "cpu_s": ticks / os.sysconf("SC_CLK_TCK"),
        "requests": found['skipwise_batch_size_sum{kind="recommend"}'],
        "batches": found['skipwise_batch_size_count{kind="recommend"}'],
    }


def _report(config: ServeBenchmarkConfig, rounds: list[Round], service: dict[str, float], tracks: int) -> Report:
    def cells(name: str, latencies: np.ndarray, late: np.ndarray, errors: int) -> list[str]:
        percentiles = [f"{value:.1f}" for value in np.percentile(latencies, _PERCENTILES) * 1000]
        return [name, f"{len(latencies):,}", str(errors), *percentiles, f"{np.percentile(late, 99) * 1000:.1f}"]

    latencies, late = (np.concatenate([getattr(one, name) for one in rounds]) for name in ("latencies", "late"))
    errors = sum(one.errors for one in rounds)
    rows = [cells(str(number), one.latencies, one.late, one.errors) for number, one in enumerate(rounds, start=1)]
    rows.append(cells("all", latencies, late, errors))
    return Report(
        name="serve",
        title=f"Recommendations over HTTP, {config.rate:g} requests a second against {tracks:,} tracks",
        figures={
            "milliseconds": {f"p{one}": float(np.percentile(latencies, one)) * 1000 for one in _PERCENTILES},
            "requests": len(latencies),
            "errors": errors,
            "service": service,
        },
        samples={"1 s / P99": [1 / float(np.percentile(one.latencies, 99)) for one in rounds]},
        header=["round", "requests", "errors", "ms P50", "P90", "P99", "most", "sent late, P99"],
        rows=rows,
        notes=[
            f"The load: {config.tool}; {config.workers} workers.",
            "Times run from the planned moment (wrk: from sending) to the last byte; 'sent late' is the client's part.",
            "An error is any answer but 200, or none within 10 s; its time counts too.",
            f"The service: {service['requests'] / service['batches']:.2f} requests a batch, "
            f"{1000 * service['cpu_s'] / service['requests']:.1f} ms of CPU a request, "
            f"{service['resident_bytes'] / 2**20:,.0f} MiB resident.",
        ],
    )
