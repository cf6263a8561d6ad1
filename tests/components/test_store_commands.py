"""Every command from a log to recommendations, in an S3 store alone; and a run that dies and goes on elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skipwise.common.mirrors import local
from tests.components.conftest import Result, refused
from tests.support.stored import bucket, object_store

__all__ = ["bucket", "object_store"]

SMALL = (
    "--table.dim 16 --encoder.heads 2 --encoder.hidden 16 --train.epochs 2 --data.negatives 50 --data.workers 0 "
    "--data.batch-size 32 --evaluate.candidates 50 --checkpoint.every 2"
)
FIGURES = ("served", "full", "paper")
DIES = """
import os, sys
from skipwise.training.trainer import Trainer
from skipwise.components.__main__ import main
left, step = iter(range(7)), Trainer.step
def dying(self, batches):
    if next(left, None) is None:
        os._exit(9)
    return step(self, batches)
Trainer.step = dying
main()
"""


@pytest.fixture
def data(run, bucket: str) -> str:  # noqa: F811
    """A dataset in the store."""
    for line in (
        f"synthesize --output {bucket}/log.csv.gz --sessions 300 --tracks 80 --clusters 8",
        f"prepare --input {bucket}/log.csv.gz --output {bucket}/data",
    ):
        done: Result = run(*line.split())
        assert done.code == 0, done.said
    return f"{bucket}/data"


def figures(run_dir: Path | str) -> dict[str, object]:
    metrics = json.loads((local(run_dir) / "metrics.json").read_text())
    return {name: metrics[name] for name in FIGURES}


def test_from_a_log_to_recommendations(run, data: str, bucket: str, tmp_path: Path, monkeypatch):  # noqa: F811
    def done(line: str) -> str:
        result: Result = run(*line.split())
        assert result.code == 0, result.said
        return result.said

    assert "300 sessions" in done(f"show --data {data}")
    assert f"skipwise prepare --input {bucket}/log.csv.gz" in done(f"prepare --explain {bucket}/log.csv.gz")
    refused(run("prepare", "--input", f"{bucket}/log.csv.gz", "--output", data), f"{data} exists: choose another")
    assert f"run directory: {bucket}/runs/a" in done(f"train --data.path {data} --run-dir {bucket}/runs/a {SMALL}")
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "other-machine"))
    done(f"train --data.path {local(data)} --run-dir {tmp_path}/run {SMALL}")
    assert figures(f"{bucket}/runs/a") == figures(tmp_path / "run")
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "third-machine"))
    done(f"evaluate --run {bucket}/runs/a --protocol full")
    assert figures(f"{bucket}/runs/a") == figures(tmp_path / "run")
    done(f"export --run {bucket}/runs/a --output {bucket}/exports/a")
    done(f"index --export {bucket}/exports/a --kinds flat")
    done(f"report --run {bucket}/runs/a --output {bucket}/report.html")
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "fourth-machine"))
    manifest = json.loads((local(f"{bucket}/exports/a") / "manifest.json").read_text())
    assert manifest["index"]["kind"] == "flat"
    found = done(f"find --export {bucket}/exports/a t_ -k 1")
    track = next(word for word in found.split() if word.startswith("t_"))
    assert "t_" in done(f"recommend --export {bucket}/exports/a --session {track}:kept -k 3")
    assert "<html" in local(f"{bucket}/report.html").read_text()


def test_a_run_that_dies_goes_on_elsewhere(run, data: str, bucket: str, tmp_path: Path, monkeypatch):  # noqa: F811
    words = f"train --data.path {data} --run-dir {bucket}/run {SMALL}".split()
    died = subprocess.run([sys.executable, "-c", DIES, *words], env=os.environ, capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "other-machine"))
    resumed: Result = run(*words)
    assert resumed.code == 0 and "goes on from checkpoint train-00001-" in resumed.said, resumed.said
    done: Result = run(*f"train --data.path {data} --run-dir {tmp_path}/run {SMALL}".split())
    assert done.code == 0, done.said
    assert figures(f"{bucket}/run") == figures(tmp_path / "run")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("prepare --input {0}/nothing.csv --output {0}/out", "{0}/nothing.csv does not exist or holds no file"),
        ("train --data.path {0}/nothing", "{0}/nothing does not exist or holds no file that is read here"),
        ("recommend --export {0}/nothing --session a", "{0}/nothing does not exist or holds no file"),
        ("train --config {0}/nothing.yaml", "{0}/nothing.yaml does not exist"),
        ("report --run {0}/nothing --output {0}/page.html", "{0}/nothing does not exist"),
        ("synthesize --output {0}/", "{0} is a whole bucket: name a folder or a file in it"),
        ("synthesize --output ftp://host/log.csv", "only local paths and those of s3://, gs://"),
    ],
)
def test_refusals(run, bucket: str, line: str, wanted: str):  # noqa: F811
    refused(run(*line.format(bucket).split()), wanted.format(bucket))
