"""No command unpickles anything of a run, a dataset, an export, an index or a study that it opens.

One process runs them all, with a hook that records each class that a pickle names, and the command.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

SMALL = """\
data: {batch_size: 32, lanes: 2, workers: 0, negatives: 20}
table: {dim: 16}
encoder: {heads: 2, hidden: 16}
train: {epochs: 2, refit: false}
evaluate: {candidates: 20}
"""
TRAIN = "train best --config small.yaml --data.path data --run-dir"
STUDY = "--data data --config small.yaml"
COMMANDS = f"""\
synthesize --output log.parquet --sessions 300 --tracks 60 --clusters 5
prepare --input log.parquet --output data --title title --artist artist
synthesize --output other.parquet --sessions 300 --tracks 60 --clusters 5 --seed 1
prepare --input other.parquet --output other --vocabulary data
{TRAIN} run
{TRAIN} run
{TRAIN} newer --init-from run
evaluate --run run
evaluate --run run --data other
show --run run --run newer
show --data data
audit --data data
report --run run --output report.html
export --run run --output export
export --run run --output parts --format faiss
export --run newer --output delta --only-new-since run
index --export export --kinds hnsw --recall 0.1 --threads 1
evaluate --run run --export export
recommend --export export --session TRACK
recommend --export parts --session TRACK
similar --export export --track TRACK
find --export export the
serve --export export --port 0 --reload-s 0
sweep {STUDY} --output sweep --trials 1
sweep {STUDY} --output sweep --trials 2
table {STUDY} --output table --seeds 1 --recipes best
table {STUDY} --output table --seeds 1 --recipes best
"""
RUN_ALL = '''
import json, sys
import pyarrow.parquet as pq
command, found = "", []

def hook(event, arguments):
    # Ranks of one run send each other pickles, also where there is one rank.
    if event == "pickle.find_class" and sys._getframe(1).f_code.co_name != "_tensor_to_object":
        found.append((command, *map(str, arguments)))

sys.addaudithook(hook)
import uvicorn
from skipwise.components.__main__ import main
from skipwise.training.guards.stop_signal import Action, StopSignal

async def serve(self, sockets):
    """Ends at once."""

uvicorn.Server.serve = serve
request, steps = StopSignal._request, []

def stop_once(self, failed):
    steps.append(command)
    return Action.STOP if len(steps) == 3 else request(self, failed)

StopSignal._request = stop_once
codes = []
for line in sys.argv[1].splitlines():
    if "TRACK" in line:
        line = line.replace("TRACK", pq.read_table("data/vocabulary.parquet")["track_id"][0].as_py())
    command, sys.argv[1:], code = line, line.split(), 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    codes.append((line, code))
import pickle
command = "the hook itself"
pickle.loads(pickle.dumps(ValueError))
with open("found.json", "w") as file:
    json.dump({"codes": codes, "found": found}, file)
'''


def test_nothing_is_unpickled(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(SMALL)
    words = [sys.executable, "-c", RUN_ALL, COMMANDS]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "found.json").exists(), done.stderr
    said = json.loads((tmp_path / "found.json").read_text())
    assert "goes on from checkpoint" in done.stderr, "a training was resumed"
    assert [one for one in said["codes"] if one[1]] == [], done.stderr
    assert said["found"] == [["the hook itself", "builtins", "ValueError"]]
