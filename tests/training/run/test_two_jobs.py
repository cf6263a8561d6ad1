"""Two jobs in one run directory: the second is refused, and the first one ends as if it had been alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.common.locks import LOCK, locked
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.evaluation.evaluator import evaluate_run
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.start import create_or_resume_run, locked_run
from tests.conftest import random_sessions
from tests.training.checkpoint.test_resume import SESSIONS, TRACKS, assert_equal, config_of, story_of

IN_USE = f"run is in use by process {os.getpid()} on .*, since .* UTC: wait until that has ended, or "


@pytest.fixture
def data(make_dataset) -> Path:
    return make_dataset(random_sessions(SESSIONS, TRACKS), TRACKS)


def test_a_second_job_is_refused_and_the_first_ends_as_if_alone(data: Path, tmp_path: Path):
    """After each epoch of the first, when checkpoints are there and one is being written."""
    config, tried = config_of(data, tmp_path / "run", epochs=2), []

    def try_others(epoch: int, metrics: dict) -> bool:
        for again in (config, config_of(data, tmp_path / "run", epochs=9)):
            with pytest.raises(UserError, match=f"{IN_USE}choose another --run-dir$"):
                train(again, "best")
        with pytest.raises(UserError, match=f"{IN_USE}end it$"):
            evaluate_run(RunDirectory.open(config.run_dir), ("served",))
        tried.append(epoch)
        return False

    with process_group():
        train(config, "best", try_others)
        train(config_of(data, tmp_path / "alone", epochs=2), "best")
        assert tried == [1, 2]
        stories = [story_of(tmp_path / name) for name in ("run", "alone")]
        assert stories[0][:2] == stories[1][:2]
        assert_equal(stories[0][2], stories[1][2])
        assert not os.path.lexists(tmp_path / "run" / LOCK)
        with locked(tmp_path / "run" / LOCK, tmp_path / "run"):  # as of an evaluation
            assert train(config, "best").finished
            with pytest.raises(UserError, match=IN_USE):
                evaluate_run(RunDirectory.open(config.run_dir), ("served",))


def test_what_a_killed_start_left_is_not_in_the_way(data: Path, tmp_path: Path):
    config = config_of(data, tmp_path / "run")
    (tmp_path / "run" / ".matches.k3j2" / "spill").mkdir(parents=True)
    (tmp_path / "run" / f"{LOCK}.0123456789abcdef").symlink_to("a claim")
    with process_group(), locked_run(config, "best", SessionStore(str(data))):
        assert {path.name for path in (tmp_path / "run").iterdir()} > {LOCK, "run.json"}
        assert not list((tmp_path / "run").glob(".matches*")) + list((tmp_path / "run").glob(f"{LOCK}.*"))
        with pytest.raises(UserError, match="in use"), locked_run(config, "best", SessionStore(str(data))):
            pass
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("")
    with process_group(), pytest.raises(UserError, match="run exists and is not empty: choose another --run-dir"):
        create_or_resume_run(config, "best", SessionStore(str(data)))


@pytest.mark.ranks
def test_two_ranks_are_refused_in_one_sentence_and_not_started_again(data: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    command = "-m skipwise.components.one_node --nproc-per-node 2 --max-restarts 1 -m -- skipwise train"
    words = f"--data.path {data} --run-dir {tmp_path}/run --data.lanes 2 --data.batch-size 32"
    with locked(tmp_path / "run" / LOCK, tmp_path / "run"):
        done = subprocess.run(
            [sys.executable, *command.split(), *words.split()],
            env=os.environ | {"LOGLEVEL": "ERROR"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1  # torchrun's own
    said = done.stderr[: done.stderr.index("ChildFailedError")]
    assert said.count("is in use by process") == 1, done.stderr
    assert f"skipwise: {tmp_path}/run is in use by process {os.getpid()} on " in said
    assert "exitcode  : 2" in done.stderr
