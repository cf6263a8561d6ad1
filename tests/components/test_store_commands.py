"""From a log to recommendations in an S3 store alone, with a run that dies and goes on elsewhere; and refusals."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skipwise.common.claims import claimed
from skipwise.common.mirrors import local
from skipwise.common.stores import Place
from tests.components.conftest import Result, refused
from tests.conftest import write_dataset
from tests.support.object_store import ObjectStore
from tests.support.stored import bucket, object_store

__all__ = ["bucket", "object_store"]

TRAIN = (
    "train --table.dim 8 --encoder.heads 2 --encoder.hidden 8 --train.epochs 1 --data.negatives 20 --data.workers 0 "
    "--data.batch-size 16 --evaluate.candidates 20 --checkpoint.every 4"
)
FIGURES = ("served", "full", "paper")


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Goes on with an empty cache."""
    numbers = iter(range(1000))
    return lambda: monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / f"machine-{next(numbers)}"))


@pytest.fixture
def done(run) -> Callable[[str], str]:
    """A command that succeeds, and what it says."""

    def run_line(line: str) -> str:
        result: Result = run(*line.split())
        assert result.code == 0, result.said
        return result.said

    return run_line


def figures(run_dir: Path | str) -> dict[str, object]:
    metrics = json.loads((local(run_dir) / "metrics.json").read_text())
    return {name: metrics[name] for name in FIGURES}


def killed_while_storing(name: str, line: str, store: ObjectStore) -> None:
    command = subprocess.Popen([sys.executable, "-m", "skipwise", *line.split()], stderr=subprocess.PIPE, text=True)

    def answer(method: str, path: str) -> int:
        if method == "PUT" and path.endswith(name):
            command.kill()
            command.wait()
            return 503
        return 0

    store.answer = answer
    _, said = command.communicate(timeout=200)
    assert command.returncode == -signal.SIGKILL, said
    store.reset()


def test_from_a_log_to_recommendations(
    run,
    done,
    bucket: str,  # noqa: F811
    object_store: ObjectStore,  # noqa: F811
    tmp_path: Path,
    other_machine: Callable[[], None],
):
    log, data, run_dir, export = (f"{bucket}/{name}" for name in ("log.csv.gz", "data", "runs/a", "exports/a"))
    done(f"synthesize --output {log} --sessions 150 --tracks 40 --clusters 4")
    assert f"skipwise prepare --input {log}" in done(f"prepare --explain {log}")
    done(f"prepare --input {log} --output {data}")
    refused(run("prepare", "--input", log, "--output", data), f"{data} exists: choose another")
    other_machine()
    line = f"{TRAIN} --data.path {data} --run-dir {run_dir}"
    killed_while_storing("train-00001-00000008/checkpoint.json", line, object_store)
    other_machine()
    said = done(line)
    assert "goes on from checkpoint train-00001-00000004" in said and f"run directory: {run_dir}" in said, said
    done(f"{TRAIN} --data.path {local(data)} --run-dir {tmp_path}/run")
    other_machine()
    assert figures(run_dir) == figures(tmp_path / "run")
    done(f"evaluate --run {run_dir} --protocol full")
    other_machine()
    assert figures(run_dir) == figures(tmp_path / "run")
    done(f"export --run {run_dir} --output {export}")
    place = Place.of(export)
    assert place
    with claimed(place, ""):
        refused(run("index", "--export", export), f"{export} is in use by process", "or use a copy of it")
    done(f"index --export {export} --kinds flat")
    done(f"report --run {run_dir} --output {bucket}/report.html")
    other_machine()
    assert json.loads((local(export) / "manifest.json").read_text())["index"]["kind"] == "flat"
    track = next(word for word in done(f"find --export {export} t_ -k 1").split() if word.startswith("t_"))
    assert "t_" in done(f"recommend --export {export} --session {track}:kept -k 3")
    assert "<html" in local(f"{bucket}/report.html").read_text()


def test_a_checkpoint_that_cannot_be_stored(
    run,
    bucket: str,  # noqa: F811
    object_store: ObjectStore,  # noqa: F811
    tmp_path: Path,
):
    data = write_dataset(tmp_path / "data", [([row, row + 1, row + 2, row + 3], [0] * 4) for row in range(40)], 44)
    object_store.answer = lambda method, path: 403 if method == "PUT" and "/checkpoints/" in path else 0
    result: Result = run(*f"{TRAIN} --data.path {data} --run-dir {bucket}/run".split())
    refused(result, "cannot take a checkpoint", f"{bucket}/run/checkpoints/", "set AWS_PROFILE", "run the same command")
    place = Place.of(f"{bucket}/run")
    assert place
    found = {*place.files()}
    assert found >= {"config.yaml", "run.json", "vocabulary.parquet"}, found  # a run that begins anew, anywhere
    assert not [name for name in found if name.startswith("checkpoints/")]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("prepare --input {0}/nothing.csv --output {0}/out", "{0}/nothing.csv does not exist or holds no file"),
        ("train --data.path {0}/nothing", "{0}/nothing does not exist or holds no file that is read here"),
        ("recommend --export {0}/nothing --session a", "{0}/nothing does not exist or holds no file"),
        ("train --config {0}/nothing.yaml", "{0}/nothing.yaml does not exist"),
        ("report --run {0}/nothing --output {0}/page.html", "{0}/nothing does not exist"),
        ("prepare --input {0}/nothing.csv --output {0}/", "{0} is a whole bucket: name a folder or a file in it"),
        (
            "synthesize --sessions 9 --tracks 900 --output ftp://host/log.csv",
            "only local paths and those of s3://, gs://",
        ),
        ("show --data s3://no-such-bucket/data", "s3://no-such-bucket/data does not exist"),
    ],
)
def test_refusals(run, bucket: str, line: str, wanted: str):  # noqa: F811
    refused(run(*line.format(bucket).split()), wanted.format(bucket))
