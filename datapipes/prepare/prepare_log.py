"""`prepare`, from raw logs to a dataset directory."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.common.outputs import atomic_output, refuse_existing
from skipwise.common.stores import Place
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare.config import LEAST_MEMORY, PrepareConfig
from skipwise.datapipes.prepare.engines import Engine, in_processes, in_spark, in_turn
from skipwise.datapipes.prepare.plain_errors import check_room, plain_errors
from skipwise.datapipes.prepare.shard_options import ShardStep
from skipwise.datapipes.prepare.shard_records import shard_folder
from skipwise.datapipes.prepare.shard_steps import KINDS, Job, is_dataset, merge_shards, run_shard, run_together
from skipwise.datapipes.prepare.skip_rules import doubts


def prepare(config: PrepareConfig) -> Manifest:
    """Writes the dataset directory `config.output` and returns its manifest.

    With `config.step` "merge", from what `prepare_shard` has done with the other steps.

    Raises `UserError` for bad input, an output that exists, or too little memory or disk; nothing is written then.
    """
    if config.shard is not None:
        raise UserError(f"--step {config.step} writes no dataset: call prepare_shard")
    return _prepare(config)


def _prepare(config: PrepareConfig, num_shards: int | None = None) -> Manifest:
    """`num_shards`: how many to merge, where that is known."""
    check_room(config)
    with plain_errors(config):
        if config.step == "merge":
            job, manifest = merge_shards(config, num_shards)
        elif config.spark is not None:
            job, manifest = _prepare_in_spark(config, config.spark)
        else:
            job, manifest = _prepare_here(config)
    if job.has_skips:
        note(f"{manifest.counts['plays']:,} plays, {manifest.skips()}")
    if doubt := doubts(manifest, job.log[0].roles):
        note(doubt)
    note(f"wrote {Place.of(config.output) or config.output}: {manifest.summary()}")
    return manifest


def prepare_shard(config: PrepareConfig) -> None:
    """Does the work of `config.shard` in `config.step`: "read" or "group", see `run_shard`, or "all".

    With "all" the processes of all shards, which must run at the same time, wait for each other; shard 0 writes the
    dataset directory as `prepare` does, and the others end after it.
    """
    number, num_shards = config.numbers
    if config.step == "read" or config.step == "group":
        run_shard(config, config.step, num_shards, number)
    elif run_together(config):
        _prepare(replace(config, step="merge", shard=None), num_shards)


def _prepare_here(config: PrepareConfig) -> tuple[Job, Manifest]:
    """Does all steps on this machine; shards are in the scratch directory of the output, and vanish with it."""
    engine: Engine = in_processes if config.workers > 1 else in_turn
    with atomic_output(config.output, config.overwrite, is_dataset) as scratch:
        scratch = scratch.absolute()  # DuckDB would take "~" at its beginning for the home directory
        parquet(scratch)  # raises for a path that cannot be read back, before the log is read
        job = Job.of(config, config.workers)
        job.look_at_all()
        job.say_first()
        shared = replace(job, config=_share(job.config))
        engine("reading", partial(_shard, shared, scratch, "read"), config.workers)
        job.say_read(scratch)
        engine("grouping", partial(_shard, shared, scratch, "group"), config.workers)
        return job, job.merge(scratch, scratch)


def _shard(job: Job, root: Path, step: ShardStep, number: int) -> None:
    folder = shard_folder(root, KINDS[step], number, job.identity["num_shards"])
    job.shard(step, root, number, root / f"scratch-{number}", folder)


def _share(config: PrepareConfig) -> PrepareConfig:
    """Returns what each of the workers may take."""
    memory = config.memory / config.workers
    if memory < LEAST_MEMORY:
        raise UserError(
            f"--memory {config.memory:g} (GiB) for --workers {config.workers} leaves each less than {LEAST_MEMORY}: "
            f"raise it, or lower --workers"
        )
    threads = config.threads or len(os.sched_getaffinity(0))
    return replace(config, memory=memory, threads=max(1, threads // config.workers)) if config.workers > 1 else config


def _prepare_in_spark(config: PrepareConfig, master: str) -> tuple[Job, Manifest]:
    """Does each shard as a task of a cluster, and merges here; what was done before a failure is not done again."""
    refuse_existing(config.output, config.overwrite, is_dataset)
    alone = replace(config, workers=1, spark=None, input=_absolute(config.input), output=_absolute((config.output,))[0])
    engine = in_spark(master)
    for step in KINDS:
        engine(step, partial(run_shard, alone, step, config.workers), config.workers)
    return merge_shards(alone, config.workers)


def _absolute(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Executors have working directories of their own."""
    return tuple(path if Place.of(path) else path.absolute() for path in paths)
