"""The same load by an independent program, wrk: a closed loop of connections that wait at random between requests."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from skipwise.benchmarks.harness.open_loop import Round
from skipwise.common.errors import UserError

CONNECTIONS = 64
_CALIBRATION_S = 3
_SCRIPT = """
local bodies, headers = {}, {["Content-Type"] = "application/json", ["Host"] = "localhost"}
for line in io.lines("BODIES") do bodies[#bodies + 1] = line end
math.randomseed(0)
function delay() return math.floor(-math.log(1 - math.random()) * MEAN + 0.5) end
function request() return wrk.format("POST", "/recommend", headers, bodies[math.random(#bodies)]) end
function done(summary, latency)
    local errors = summary.errors
    print("errors", errors.connect + errors.read + errors.write + errors.status + errors.timeout)
    for at = 1, #latency do
        local microseconds, count = latency(at)
        print("took", microseconds, count)
    end
end
"""


def play(port: int, bodies: list[bytes], rate: float, seconds: float, random: np.random.Generator) -> Round:
    """Posts to /recommend, about `rate` times a second; wrk does not say how late it sent a request.

    Raises `UserError` where wrk is missing or fails.
    """
    if not shutil.which("wrk"):
        raise UserError("--tool wrk needs wrk, which is not installed: run apt-get install wrk")
    between_ms = 1000 * CONNECTIONS / rate
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bodies").write_bytes(b"\n".join(bodies))
        first = _run(Path(folder), port, between_ms, _CALIBRATION_S)
        wait_ms = max(between_ms - 1000 * float(first.latencies.mean()), 0.0)
        return _run(Path(folder), port, wait_ms, max(1, round(seconds)))


def _run(folder: Path, port: int, wait_ms: float, seconds: int) -> Round:
    script = folder / "load.lua"
    script.write_text(_SCRIPT.replace("BODIES", str(folder / "bodies")).replace("MEAN", f"{wait_ms:.3f}"))
    options = ["-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--timeout", "10s", "-s", str(script)]
    ended = subprocess.run(["wrk", *options, f"http://127.0.0.1:{port}"], capture_output=True, text=True)
    lines = [line.split() for line in ended.stdout.splitlines()]
    took = [(int(words[1]), int(words[2])) for words in lines if words[:1] == ["took"]]
    errors = [int(float(words[1])) for words in lines if words[:1] == ["errors"]]
    if ended.returncode or not took:
        raise UserError(f"wrk failed ({(ended.stderr or ended.stdout).strip()[:200]}): start it by hand to see why")
    values_us, counts = np.array(took).T
    latencies = np.repeat(values_us, counts) / 1e6
    return Round(latencies, np.zeros(len(latencies)), errors[0])
