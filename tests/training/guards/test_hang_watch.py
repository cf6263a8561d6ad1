"""A rank that hangs is named with its place, by real ranks that then end; slow ones and those that leave are not."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from skipwise.common.distributed import rank
from skipwise.datapipes.loader import StepLoader
from skipwise.training.active_run import ActiveRun
from skipwise.training.guards.hang_watch import HangWatch, Sight, describe, find_hung
from skipwise.training.run.position import Position
from tests.datapipes.test_prefetch import Counted
from tests.ranks import CONTEXT, run_on_ranks

RANKS = 3
LIMIT_S = 2.0
PATIENCE_S = 30
HUNG = 1
READING, TRAINING = "reading the batch of epoch {}, step {}", "training epoch {}, step {}"


def step(watch: HangWatch, number: int, own_work: Callable[[], None] = lambda: None) -> None:
    """What a rank does in a training step: work of its own, then a collective."""
    watch.heartbeat(READING, 3, number)
    own_work()
    watch.heartbeat(TRAINING, 3, number)
    dist.all_reduce(torch.ones(1))


def sleeps_before_a_collective() -> None:
    with HangWatch(LIMIT_S) as watch:
        for number in range(40, 50):
            step(watch, number, lambda: time.sleep(PATIENCE_S if (rank(), number) == (HUNG, 41) else 0))  # noqa: B023


def stops_in_its_own_work() -> None:
    with HangWatch(LIMIT_S) as watch:
        for number in range(40, 50):
            stops = (rank(), number) == (HUNG, 41)
            step(watch, number, lambda: os.kill(os.getpid(), signal.SIGSTOP) if stops else time.sleep(0.3))  # noqa: B023


def all_sleep_at_one_place() -> None:
    with HangWatch(LIMIT_S) as watch:
        watch.heartbeat(TRAINING, 3, 41)
        time.sleep(PATIENCE_S)


def a_rank_leaves_by_a_failure() -> None:
    with HangWatch(LIMIT_S) as watch:
        step(watch, 41)
        if rank() == HUNG:
            raise ValueError("its own failure")
        step(watch, 42)


def _rank(folder: Path, port: int, number: int, function: Callable[[], None]) -> None:
    stderr = (folder / f"stderr-{number}").open("w")
    os.dup2(stderr.fileno(), sys.stderr.fileno())
    os.environ["TORCHELASTIC_ERROR_FILE"] = str(folder / f"words-{number}")
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=PATIENCE_S))
    dist.init_process_group("gloo", store=store, rank=number, world_size=RANKS)
    function()
    os._exit(0)


class Outcome:
    """How ranks of a group whose store is the test's own, as a launcher's is, have ended."""

    def __init__(self, folder: Path, function: Callable[[], None], ends: list[int]):
        """Waits for the ranks `ends`, then kills what is left."""
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        processes: list[BaseProcess] = [
            CONTEXT.Process(target=_rank, args=(folder, store.port, number, function)) for number in range(RANKS)
        ]
        try:
            for process in processes:
                process.start()
            self.processes = [process.pid for process in processes]
            deadline = time.monotonic() + PATIENCE_S
            for number in ends:
                processes[number].join(max(0.0, deadline - time.monotonic()))
            self.codes = [process.exitcode for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.join()
        self.stderr = [(folder / f"stderr-{number}").read_text() for number in range(RANKS)]
        self.words = [
            json.loads(file.read_text())["message"]["message"] if file.exists() else None
            for file in (folder / f"words-{number}" for number in range(RANKS))
        ]

    @property
    def sentences(self) -> list[str]:
        return [line for text in self.stderr for line in text.splitlines() if line.startswith("skipwise:")]


@pytest.mark.ranks
def test_a_rank_that_sleeps_before_a_collective_is_named_with_its_place(tmp_path: Path):
    outcome = Outcome(tmp_path, sleeps_before_a_collective, [0, 1, 2])
    assert outcome.codes == [1, 1, 1]
    (sentence,) = outcome.sentences
    assert f"rank {HUNG} (host " in sentence and f"process {outcome.processes[HUNG]})" in sentence
    assert "has not moved since reading the batch of epoch 3, step 41, and all others have waited for 2 s" in sentence
    assert outcome.words == [sentence] * RANKS
    assert not any("Traceback" in text for text in outcome.stderr)


@pytest.mark.ranks
def test_a_rank_that_is_stopped_is_named_by_its_silence(tmp_path: Path):
    outcome = Outcome(tmp_path, stops_in_its_own_work, [0, 2])
    assert outcome.codes == [1, None, 1]
    (sentence,) = outcome.sentences
    assert f"rank {HUNG} (host " in sentence and f"process {outcome.processes[HUNG]})" in sentence
    assert "has shown no sign of life since about" in sentence
    assert "step 41" in sentence or "step 40" in sentence  # its thread's last turn
    assert "and all others have waited for 2 s" in sentence
    assert outcome.words == [sentence, None, sentence]


@pytest.mark.ranks
def test_where_all_stand_at_one_place_none_is_blamed(tmp_path: Path):
    outcome = Outcome(tmp_path, all_sleep_at_one_place, [0, 1, 2])
    assert outcome.codes == [1, 1, 1]
    (sentence,) = outcome.sentences
    assert "no rank has moved for 2 s, all 3 since training epoch 3, step 41" in sentence


@pytest.mark.ranks
def test_a_failure_is_shown_and_not_taken_for_a_hang(tmp_path: Path):
    outcome = Outcome(tmp_path, a_rank_leaves_by_a_failure, [0, 1, 2])
    assert outcome.sentences == []
    assert "ValueError: its own failure" in outcome.stderr[HUNG]


HANGS_ONCE = """
import os, time
import torch.distributed as dist
from skipwise.common.distributed import process_group, rank
from skipwise.training.guards.hang_watch import HangWatch

attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
with process_group():
    with HangWatch(2.0) as watch:
        dist.barrier()
        watch.heartbeat("work of its own")
        time.sleep(0 if attempt or rank() == 0 else 60)
        watch.heartbeat("the last barrier")
        dist.barrier()
    os.write(1, f"rank {rank()} ended well at attempt {attempt}\\n".encode())  # whole: both ranks share the pipe
"""


@pytest.mark.ranks
def test_torchrun_starts_the_ranks_anew_after_a_hang(tmp_path: Path):
    (tmp_path / "job.py").write_text(HANGS_ONCE)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run([sys.executable, *torchrun, tmp_path / "job.py"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [f"rank {number} ended well at attempt 1" for number in range(2)]
    assert done.stderr.count("has not moved since work of its own, and all others have waited for 2 s") == 1


def slow_steps() -> bool:
    """Steps of 0.6 of the limit, longer than it together; ends far apart. Returns whether a thread watched."""
    with HangWatch(LIMIT_S / 2) as watch:
        watched = any(thread.name == "watch" for thread in threading.enumerate())
        for number in range(3):
            step(watch, number, lambda: time.sleep(0.6 * LIMIT_S / 2) if rank() == HUNG else None)
        dist.barrier()
        if rank() == HUNG:
            for _ in range(4):
                watch.heartbeat("work of its own")
                time.sleep(0.6 * LIMIT_S / 2)
    with HangWatch(LIMIT_S):  # one after the other, in one group
        pass
    return watched and not any(thread.name == "watch" for thread in threading.enumerate())


@pytest.mark.ranks
def test_slow_ranks_and_ranks_that_end_apart_are_left_alone(tmp_path: Path):
    assert run_on_ranks(tmp_path, RANKS, slow_steps) == [True] * RANKS


def watch_threads(limit_s: float) -> int:
    with HangWatch(limit_s) as watch:
        watch.heartbeat("anywhere")
        return sum(thread.name == "watch" for thread in threading.enumerate())


@pytest.mark.ranks
def test_without_a_limit_no_thread_is_started(tmp_path: Path):
    assert run_on_ranks(tmp_path, 2, watch_threads, 0) == [0, 0]


def test_one_rank_is_not_watched():
    assert watch_threads(LIMIT_S) == 0


def test_a_call_costs_less_than_ten_microseconds():
    watch = HangWatch(LIMIT_S)
    assert min(timeit.repeat(lambda: watch.heartbeat(TRAINING, 3, 41), number=1000, repeat=5)) < 1000 * 10e-6


def test_a_rank_that_reads_is_behind_those_that_wait_for_it():
    """Of an epoch's first batch too: they wait once they have read their own."""
    watch, seen = HangWatch(LIMIT_S), []

    def agree(batches: Iterator[int]) -> Iterator[int]:
        for batch in batches:
            seen.append(watch._now)
            yield batch

    loader = StepLoader(Counted(workers=0, prefetch=1, steps=3), fit=agree)
    job = SimpleNamespace(_loader=loader, _hang_watch=watch, position=Position(epoch=2, step=1))
    assert list(ActiveRun.batches(job)) == [1, 2]
    assert seen == [(2, "training epoch 2, step {}", (2,)), (4, "training epoch 2, step {}", (3,))]


WAITS = Sight(82, "training epoch 3, step 41", 600.0, "a", 10, 130)
READS = Sight(81, "reading the batch of epoch 3, step 41", 600.0, "b", 20, 130)


@pytest.mark.parametrize(
    "sights, silent, hung",
    [
        ([WAITS, READS, WAITS], set(), [1]),
        ([READS, WAITS, WAITS], {2}, [2]),  # silence before all else, however far it has come
        ([READS, WAITS, WAITS], {1, 2}, [1, 2]),
        ([WAITS, WAITS, WAITS], set(), [0, 1, 2]),
        ([READS, WAITS, READS], set(), [0, 2]),
        ([WAITS, READS, replace(WAITS, still_s=599.0)], set(), []),  # a rank still moves
        ([WAITS, replace(READS, still_s=3.0), WAITS], {1}, [1]),  # a silent one's last words are old
        ([WAITS, replace(READS, left=True), WAITS], {1}, [0, 2]),
        ([WAITS, Sight(), WAITS], {1}, [1]),  # never heard of
        ([WAITS, Sight(), WAITS], set(), []),  # not yet
    ],
)
def test_who_hangs(sights: list[Sight], silent: set[int], hung: list[int]):
    assert find_hung(dict(enumerate(sights)), silent, 600.0) == hung


def test_the_sentences():
    end = "the job restarts from its last checkpoint where --max_retries allows it"
    see = f"see what that process or its machine is doing; {end}"
    sights = dict(enumerate([WAITS, READS, WAITS]))
    assert describe([1], sights, set(), 600.0) == (
        "skipwise: rank 1 (host b, process 20) has not moved since reading the batch of epoch 3, step 41, and all "
        f"others have waited for 600 s: {see}"
    )
    assert describe([1, 2], sights, {1, 2}, 600.0) == (
        "skipwise: rank 1 (host b, process 20), rank 2 (host a, process 10) have shown no sign of life since about "
        f"reading the batch of epoch 3, step 41, and all others have waited for 600 s: {see}"
    )
    many = dict(enumerate([WAITS] + [READS] * 8))
    assert "rank 4 (host b, process 20) and 4 more have not moved since" in describe(
        list(range(1, 9)), many, set(), 600.0
    )
    assert describe([0, 1], dict(enumerate([WAITS, WAITS])), set(), 600.0) == (
        "skipwise: no rank has moved for 600 s, all 2 since training epoch 3, step 41: see whether their network and "
        f"their devices work; {end}"
    )
    alone = {0: WAITS, 1: replace(READS, left=True)}
    assert "since training epoch 3, step 41, 600 s ago: see" in describe([0], alone, set(), 600.0)
