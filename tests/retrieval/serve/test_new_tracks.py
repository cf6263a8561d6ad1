"""From a play of a track that nobody knows to its recommendation, through the commands, each a process."""

import csv
import gzip
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
LONGEST_S = 60
"""From the play to its row in service."""


def skipwise(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "skipwise", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def started(stack: ExitStack, file: Path, until: str, *words: object) -> str:
    """Starts a command that goes on until the block ends, and returns the line in which it says `until`."""
    stream = stack.enter_context(open(file, "w"))
    process = subprocess.Popen([sys.executable, "-m", "skipwise", *map(str, words)], stderr=stream, stdout=stream)
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGTERM)
    while not (said := [line for line in file.read_text().splitlines() if until in line]):
        assert process.poll() is None, file.read_text()
        time.sleep(0.1)
    return said[0]


def write_log(file: Path, plays: list[dict[str, str]], after: str, new: str) -> None:
    """The plays, with `new` behind each play of the track `after`."""
    rows = []
    for play in plays:
        track, session = play["track_id_clean"], play["session_id"]
        rows.append({"session": session, "track": track, "skip": play["skip_2"]})
        if track == after:
            rows.append({"session": session, "track": new, "skip": "false"})
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, ["session", "track", "skip", "at"])
        writer.writeheader()
        writer.writerows(row | {"at": number} for number, row in enumerate(rows))


def test_new_tracks_are_recommended_within_a_minute(tmp_path: Path):
    words = ["--tracks", 150, "--clusters", 5]
    for name, sessions, seed in (("base", 500, 0), ("later", 400, 1)):
        skipwise("synthesize", "--output", tmp_path / f"{name}.csv.gz", "--sessions", sessions, "--seed", seed, *words)
    skipwise("prepare", "--input", tmp_path / "base.csv.gz", "--output", tmp_path / "data")
    run = ["--data.path", tmp_path / "data", "--table.dim", 32, "--data.negatives", 100]
    skipwise("train", *run, "--run-dir", tmp_path / "run", "--train.epochs", 2, "--train.no-refit")
    skipwise("export", "--run", tmp_path / "run", "--output", tmp_path / "export")
    with gzip.open(tmp_path / "later.csv.gz", "rt") as stream:
        plays = list(csv.DictReader(stream))
    after = Counter(play["track_id_clean"] for play in plays).most_common(1)[0][0]
    sessions = list(dict.fromkeys(play["session_id"] for play in plays))
    (tmp_path / "parts").mkdir()
    lags = []
    with ExitStack() as stack:
        served = ["--port", 0, "--reload-s", 1, "--export", tmp_path / "export", "--deltas", tmp_path / "deltas"]
        url = started(stack, tmp_path / "served.txt", "serving", "serve", *served).split()[-1]
        follow = ["--follow", tmp_path / "parts", "--init-from", tmp_path / "run", "--run-dir", tmp_path / "followed"]
        follow += ["--stream.deltas", tmp_path / "deltas", "--stream.poll-s", 1]
        started(stack, tmp_path / "followed.txt", "waits for part 1", "train", *run, *follow)
        for number in range(2):
            of_part = {*sessions[200 * number : 200 * number + 200]}
            new = f"new_{number}"
            log = tmp_path / f"{number}.csv"
            played = time.monotonic()
            write_log(log, [play for play in plays if play["session_id"] in of_part], after, new)
            columns = ["--session", "session", "--track", "track", "--skip", "skip", "--order", "at"]
            part = ["--input", log, "--output", tmp_path / "parts" / f"part-{number}"]
            skipwise("prepare", *part, *columns, "--max-length", 20)
            body = {"session": [{"track": new}], "k": 1}
            while (answer := httpx.post(f"{url}/recommend", json=body)).status_code == 404:
                assert time.monotonic() - played < LONGEST_S
                time.sleep(0.1)
            lags.append(time.monotonic() - played)
            assert answer.json()["export"]["delta"] == number + 1 and answer.json()["export"]["loaded"] == 1
        heard = {"session": [{"track": after, "skipped": False}], "k": 20}
        found = [track["track"] for track in httpx.post(f"{url}/recommend", json=heard).json()["tracks"]]
        metrics = httpx.get(f"{url}/metrics").text
    said = [line for line in metrics.splitlines() if line.startswith("skipwise_delta")]
    print("lags", lags, "\n".join(said), "\nbehind the track", after, found)
    assert {"new_0", "new_1"} & {*found}, found
