"""Who runs the shards of a step: this process, processes of this machine, or an Apache Spark cluster."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from skipwise.common.console import hide_stages, stage
from skipwise.common.errors import UserError

Work = Callable[[int], None]
Engine = Callable[[str, Work, int], None]
"""Calls the work for each number of a shard; the text says what it does."""


def in_turn(name: str, work: Work, num_shards: int) -> None:
    """Runs `work(number)` for each shard in this process."""
    for number in range(num_shards):
        work(number)


def in_processes(name: str, work: Work, num_shards: int) -> None:
    """Runs each shard in a process of its own; raises the error of the first shard that fails."""
    context = multiprocessing.get_context("spawn")
    before = {*multiprocessing.active_children()}
    with (
        stage(name, num_shards, "shards") as advance,
        ProcessPoolExecutor(num_shards, context, initializer=_begin) as pool,
    ):
        try:
            for _ in pool.map(work, range(num_shards)):
                advance(1)
        except BrokenProcessPool:
            raise UserError(
                "a process of --workers was ended by the system, as a rule for memory: lower --memory or --workers"
            ) from None
        except BaseException:
            for process in {*multiprocessing.active_children()} - before:
                process.terminate()
            raise


def _begin() -> None:
    """Ctrl-C ends a process at once, without a traceback; the stages of all together are shown by the one above."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    hide_stages()


def in_spark(master: str) -> Engine:
    """Returns what runs each shard as a task of a Spark cluster, which repeats a task whose executor has died."""
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError("--spark needs PySpark: pip install skipwise[spark]") from None

    def run(name: str, work: Work, num_shards: int) -> None:
        def mapped(batches: Iterator[Any]) -> Iterator[Any]:
            import pyarrow as pa

            for batch in batches:
                for number in batch["id"].to_pylist():
                    problem = ""
                    try:
                        work(number)
                    except UserError as error:  # the same on every try
                        problem = str(error)
                    yield pa.record_batch({"shard": [number], "problem": [problem]})

        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else the executors' first python3
        try:
            session = SparkSession.builder.appName("skipwise prepare").master(master).getOrCreate()
            shards = session.range(0, num_shards, 1, num_shards)
            done = shards.mapInArrow(mapped, "shard long, problem string").collect()
        except PySparkException as error:
            raise UserError(f"--spark {master} failed ({' '.join(str(error).split())[:300]})") from None
        for problem in (row["problem"] for row in sorted(done) if row["problem"]):
            raise UserError(problem)

    return run
