"""Ranks on two nodes, with a disk in common or of their own: equal to one node; one is killed, and another joins.

The nodes are network namespaces of this machine, each with a host name, process numbers and folders of its own. Needs
root, and Debian's iproute2.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, LocalFileSystem, S3FileSystem, copy_files

from tests.conftest import random_sessions, write_dataset
from tests.support.nodes import HOST, Node, available, network
from tests.support.object_store import running

SMALL = (
    "--data.batch-size 32 --data.lanes 4 --data.negatives 20 --data.workers 0 --table.dim 16 --encoder.heads 2 "
    "--encoder.hidden 16 --encoder.dropout 0 --encoder.track-dropout 0 --loss.keep-dropout 0 --evaluate.candidates 50 "
    "--train.patience 9 --train.epochs"
)
SECONDS = 400

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not available(), reason="needs root, iproute2, and a kernel that lets it make namespaces"),
    pytest.mark.timeout(3 * SECONDS),
]


class Place:
    """Both nodes, and a store that they and this machine reach."""

    def __init__(self, folder: Path, port: int):
        self.folder = folder
        access = {"access_key": "k", "secret_key": "s", "region": "us-east-1", "allow_bucket_creation": True}
        self.store = S3FileSystem(endpoint_override=f"{HOST}:{port}", scheme="http", **access)
        self.bucket = f"bucket-{port}"  # the server's memory is the process's
        self.url = f"s3://{self.bucket}"
        self.store.create_dir(self.bucket)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def node(self, number: int, words: str, nodes: str = "2", tries: int = 0) -> Node:
        """Starts one with a cache of its own."""
        own = self.folder / f"node-{number}"
        return Node(number, nodes, words, own, {**self.environment, "SKIPWISE_CACHE": str(own / "cache")}, tries)

    def both(self, words: str) -> list[Node]:
        """Runs one command on both to its end."""
        nodes = [self.node(number, words) for number in (1, 2)]
        for node in nodes:
            node.wait(SECONDS)
        return nodes

    def file(self, path: str) -> str:
        return self.store.open_input_stream(f"{self.bucket}/{path}").read().decode()

    def metrics(self, run: str) -> dict[str, object]:
        return compared(json.loads(self.file(f"{run}/metrics.json")))

    def files(self, folder: str) -> set[str]:
        found = self.store.get_file_info(FileSelector(f"{self.bucket}/{folder}", recursive=True))
        return {info.path.removeprefix(f"{self.bucket}/{folder}/") for info in found if info.is_file}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    data = write_dataset(tmp_path / "data", random_sessions(600, 200), 200)
    with network(), running(HOST) as store:
        here = Place(tmp_path, store.port)
        copy_files(str(data), f"{here.bucket}/data", LocalFileSystem(), here.store)
        yield here


def compared(metrics: dict[str, dict[str, object]]) -> dict[str, object]:
    """A run's metrics without times and rates."""
    train = {name: metrics["train"][name] for name in ("epochs", "best_epoch")}
    return {name: section for name, section in metrics.items() if name != "train"} | {"train": train}


def on_one_node(words: str, folder: Path) -> dict[str, object]:
    """The metrics of the same training on four ranks of this machine."""
    torchrun = [sys.executable, "-m", "skipwise.components.one_node", "--nproc-per-node", "4", "-m", "--"]
    subprocess.run([*torchrun, "skipwise", *words.split()], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    return compared(json.loads((folder / "run" / "metrics.json").read_text()))


def waited_for(condition: Callable[[], bool], running: Node, said: Callable[[], str]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end and running.runs, said()
        time.sleep(0.5)


def test_disks_that_are_not_shared(place: Place, tmp_path: Path):
    """Dataset, run and checkpoints are in the store alone, and the result has the bits of one node's."""
    train = f"train --data.path {place.url}/data --run-dir {place.url}/run --checkpoint.every 5 {SMALL} 2"
    for node in place.both(train):
        assert "Error" not in node.said, node.said
    expected = on_one_node(f"train --data.path {tmp_path}/data --run-dir run {SMALL} 2", tmp_path)
    assert place.metrics("run") == expected
    ranks = {f"ranks/served-test/part-{rank:05}.parquet" for rank in range(4)}
    parts = {
        f"checkpoints/{place.file('run/checkpoints/best').strip()}/part-{rank:05}.safetensors" for rank in range(4)
    }
    assert ranks | parts <= place.files("run")
    assert not list((tmp_path / "node-2").glob("**/checkpoint.json")), "node 2 has a copy that it did not need"
    # Both lose their disks, and measure what is in the store.
    for number in (1, 2):
        shutil.rmtree(tmp_path / f"node-{number}")
    for node in place.both(f"evaluate --run {place.url}/run"):
        assert "Error" not in node.said, node.said
    assert place.metrics("run") == expected

    (refused, _) = place.both(f"train --data.path {place.url}/data --run-dir run {SMALL} 1")
    assert "run on node-2 is not the folder of that name on rank 0's: name a folder that all machines share" in (
        refused.said
    )
    write_dataset(tmp_path / "node-1" / "data", random_sessions(60, 200), 200)
    write_dataset(tmp_path / "node-2" / "data", random_sessions(60, 200, seed=1), 200)
    (refused, _) = place.both(f"train --data.path data --run-dir {place.url}/other {SMALL} 1")
    assert "data is not the same dataset on every machine" in refused.said


def test_a_disk_that_is_shared(place: Place, tmp_path: Path):
    """Both nodes work in one folder, without a store."""
    train = f"train --data.path {tmp_path}/data --run-dir run {SMALL} 2"
    nodes = [Node(number, "2", train, tmp_path / "both", {}, 0) for number in (1, 2)]
    assert [node.wait(SECONDS) for node in nodes] == [0, 0], nodes[0].said
    found = json.loads((tmp_path / "both" / "run" / "metrics.json").read_text())
    assert compared(found) == on_one_node(train, tmp_path)


def test_a_node_is_killed_and_another_joins(place: Place, tmp_path: Path):
    """Node 1 goes on alone from the last checkpoint, then with the new node, to what no interruption gives."""
    train = f"train --data.path {place.url}/data --run-dir {place.url}/run --checkpoint.every 5 {SMALL} 6"
    first, second = (place.node(number, train, "1:2", tries=3) for number in (1, 2))

    def said() -> str:
        return f"{first.said}\n=== node 2\n{second.said}"

    waited_for(lambda: "epoch 1: validation" in first.said, first, said)
    second.kill()
    waited_for(lambda: first.said.count("goes on from checkpoint") == 1, first, said)
    waited_for(lambda: "epoch 3: validation" in first.said, first, said)
    third = place.node(2, train, "1:2", tries=3)
    waited_for(lambda: first.said.count("goes on from checkpoint") == 2, first, said)
    assert [node.wait(SECONDS) for node in (first, third)] == [0, 0], said()
    assert "stopped by SIGTERM, saved as" in first.said, said()
    found, expected = (
        place.metrics("run"),
        on_one_node(f"train --data.path {tmp_path}/data --run-dir run {SMALL} 6", tmp_path),
    )
    for protocol in ("served", "full", "paper"):
        for split in ("validation", "test"):
            for name in ("hr@10", "ndcg@10", "mrr"):
                assert found[protocol][split][name] == pytest.approx(expected[protocol][split][name], abs=2e-3)
    assert found["train"] == expected["train"]
