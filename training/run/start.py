"""The start of a run: in a new directory, with its config, vocabulary and record, or where it was stopped."""

import dataclasses
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from skipwise.common.distributed import logger, on_rank_0, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.files import read_json, replacing, write_json, write_text
from skipwise.common.locks import LOCK, locked_for_all_ranks
from skipwise.common.outputs import refuse_url
from skipwise.common.tables import write_table
from skipwise.common.versions import versions
from skipwise.common.work_folders import share, worked_on
from skipwise.datapipes.manifest import RUN_RECORD, VOCABULARY
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.datapipes.vocabulary_match import SCRATCH, match
from skipwise.training.checkpoint.checkpoints import open_checkpoint, start_checkpoint
from skipwise.training.checkpoint.state import MODEL
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import flatten
from skipwise.training.follow.rows_in_use import rows_in_use
from skipwise.training.run.directory import MATCHES, VALUES, RunDirectory, RunRecord

FREE_TO_CHANGE = (
    "run_dir",
    "resume",
    "data.path",
    "data.workers",
    "data.prefetch",
    "table.sharding",
    "train.log_every",
    "train.hang_s",
    "train.tracker",
    "evaluate.batch_size",
    "checkpoint.minutes",
    "checkpoint.every",
    "checkpoint.keep",
    "follow",
    "stream.deltas_kept",
    "stream.delta_minutes",
    "stream.poll_s",
    "stream.idle_s",
)
"""Fields that change no figure of a run; a stopped run continues only where all others are equal."""
_FIRST_FILES = ("config.yaml", RUN_RECORD, VOCABULARY, MATCHES, VALUES)


@contextmanager
def locked_run(config: RunConfig, recipe: str, store: SessionStore) -> Iterator[RunDirectory]:
    """`create_or_resume_run`; unless the run is finished, no other job uses its directory for the time of the block."""
    with worked_on(config.run_dir, "--run-dir") as run_dir:
        config = dataclasses.replace(config, run_dir=run_dir)
        found = on_rank_0(lambda: bool(run_dir) and Path(run_dir).exists())
        path, finished = on_rank_0(lambda: _choose(config, recipe), partial(_cannot_write, config))
        try:
            with nullcontext() if finished else locked_for_all_ranks(path, "--run-dir"):
                if not config.run_dir:
                    config = dataclasses.replace(config, run_dir=str(path))
                yield create_or_resume_run(config, recipe, store)
        except UserError:
            if not found and rank() == 0:
                with suppress(OSError):  # a run has begun there
                    path.rmdir()
            raise


def create_or_resume_run(config: RunConfig, recipe: str, store: SessionStore) -> RunDirectory:
    """Creates the run directory on rank 0, or opens it where it holds a run of the same config.

    An empty `run_dir` picks runs/RECIPE-NNN, and the same one again after torchrun restarted the ranks. Raises
    `UserError` on every rank for a directory that holds anything else.
    """
    path = on_rank_0(lambda: _directory(config, recipe, store), partial(_cannot_write, config))
    path = Path(config.run_dir) if config.run_dir else path  # machines may have their copies at other paths
    share(path)  # before any checkpoint, which without these files is nobody's
    return RunDirectory(path, dataclasses.replace(config, run_dir=str(path)), RunRecord.read(path))


def _cannot_write(config: RunConfig, why: str) -> str:
    return f"{config.run_dir or 'runs'} cannot be written ({why}): choose another --run-dir"


def _choose(config: RunConfig, recipe: str) -> tuple[Path, bool]:
    """The path of the run's directory, and whether a finished run is there; refuses one that holds anything else."""
    path = Path(config.run_dir) if config.run_dir else _restarted_directory(recipe) or _next_directory(recipe)
    refuse_url(path, "--run-dir")
    if (path / RUN_RECORD).exists() and config.resume == "auto":
        return path, RunDirectory.open(str(path)).finished
    if path.exists() and not (path.is_dir() and all(_is_unstarted(file.name) for file in path.iterdir())):
        raise UserError(f"{path} exists and is not empty: choose another --run-dir")
    return path, False


def _is_unstarted(name: str) -> bool:
    """Whether a run that was killed before its first step may have left a file of this name."""
    return name.removeprefix(".").removesuffix(".partial") in _FIRST_FILES or name.startswith((LOCK, SCRATCH))


def _directory(config: RunConfig, recipe: str, store: SessionStore) -> Path:
    """The path of the run's directory, which holds its config, vocabulary and record; of a run that is refused none."""
    path, _ = _choose(config, recipe)
    if (path / RUN_RECORD).exists() and config.resume == "auto":
        _check_same_run(path, config, recipe, store)
        return path
    path.mkdir(parents=True, exist_ok=True)
    try:
        _write_first_files(path, config, recipe, store)
    except UserError:
        for name in _FIRST_FILES:
            (path / name).unlink(missing_ok=True)
        raise
    return path


def _write_first_files(path: Path, config: RunConfig, recipe: str, store: SessionStore) -> None:
    for left_over in path.glob(f"{SCRATCH}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    config = dataclasses.replace(config, run_dir=str(path))
    write_text(path / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    num_rows, rows_hash = _write_vocabulary(config, store, path)
    if store.features:
        with replacing(path / VALUES) as partial_file:
            write_table(store.features.value_rows(), partial_file)
    before = RunDirectory.open(config.init_from).trained if config.init_from else []
    record = RunRecord(
        recipe=recipe,
        ranks=world_size(),
        vocabulary_hash=store.manifest.vocabulary_hash,
        counts=store.manifest.counts,
        data_hash=store.manifest.data_hash,
        rows=num_rows,
        rows_hash=rows_hash,
        contexts={name: list(values) for name, values in store.contexts.items()},
        context_hash=store.manifest.context_hash(store.contexts) if store.contexts else None,
        features_hash=store.features.digest if store.features else None,
        profile_hash=store.manifest.profile_hash if store.profile else None,
        values=store.features.num_values if store.features else 0,
        versions=versions(),
        launch=os.environ.get("TORCHELASTIC_RUN_ID"),
        trained_before=before,
    )
    write_json(path / RUN_RECORD, record.model_dump(by_alias=True))


def _write_vocabulary(config: RunConfig, store: SessionStore, path: Path) -> tuple[int, str]:
    """Writes the run's own vocabulary, which stays when the dataset directory is replaced.

    Returns how many rows the table has, and the hash of their ids.
    """
    own = Vocabulary.of(store)
    own.check()
    if not config.init_from:
        with replacing(path / VOCABULARY) as partial:
            shutil.copyfile(own.file, partial)
        return own.num_tracks, store.manifest.vocabulary_hash
    source = RunDirectory.open(config.init_from)
    _check_source(source, config, store)
    source.vocabulary.check()
    with TemporaryDirectory(dir=path, prefix=SCRATCH) as scratch:
        used = rows_in_use(source, Path(scratch)).vocabulary
        num_rows, kept, known = match(used, own, config.vanished == "keep", path / VOCABULARY, path / MATCHES)
    logger.info(
        f"starts from {source.path}: {known:,} of the {store.num_tracks:,} tracks have rows there, "
        f"{used.num_tracks - known:,} of its tracks are not in {store.path} and {kept:,} of those are kept"
    )
    return num_rows, Vocabulary(path / VOCABULARY, num_rows, "", "train again").digest()


_ROWS_DEPEND_ON: dict[str, Callable[[RunConfig], Any]] = {
    "table.dim": lambda config: config.table.dim,
    "table.optimizer": lambda config: config.table.optimizer,
    "loss.keep": lambda config: "above 0" if config.loss.keep else 0,
    "loss.keep-dim": lambda config: config.loss.keep_width,
    "data.inputs": lambda config: " ".join(config.data.inputs) or "none",
    "data.features": lambda config: " ".join(config.data.features) or "none",
    "data.profile": lambda config: config.data.profile or "none",
}
"""Fields by which the tables' columns, rows or optimizer state, or the weights of what is read, differ."""


def _check_source(source: RunDirectory, config: RunConfig, store: SessionStore) -> None:
    """Raises `UserError` where the rows of `source` do not fit the table, or it was trained on this validation."""
    for field, told in _ROWS_DEPEND_ON.items():
        before, now = (told(each) for each in (source.config, config))
        if before != now:
            was, same = f"with --{field} {before}, not {now}", "start from it with the same, or "
            if before == "none":
                was, same = f"without --{field}, not with {now}", "start from it without, or "
            if config.follow and field in ("data.features", "data.profile"):  # which it refuses
                same = ""
            other = "follow from another run" if config.follow else "leave --init-from out"
            raise UserError(f"{source.path} was trained {was}: {same}{other}")
    _check_features(source, store)
    for trained in source.trained:
        if not trained.is_same(store.manifest):
            logger.warning(
                f"{source.path} was trained on other data than {store.path}, or another split of them: where these "
                "hold the same sessions, validation and test are of tracks that it has seen"
            )
        elif "validation" not in trained.held_out and not config.follow:  # which is validated on the parts alone
            raise UserError(
                f"{source.path} was refit on the validation targets of {store.path}, which could then choose no epoch: "
                "start from a run with --train.no-refit, or on other data"
            )


def _check_features(source: RunDirectory, store: SessionStore) -> None:
    """Raises `UserError` where columns of the same names are read otherwise than by `source`."""
    if store.features is None:
        return
    checkpoint = start_checkpoint(source.path)
    projection = open_checkpoint(checkpoint).shape_of(f"{MODEL}content.projection.weight")
    before, now = projection[1] if projection else 0, store.features.num_numbers
    if before != now:
        raise UserError(
            f"{source.path} reads {before:,} numbers of each track's features, and {store.path} has {now:,} in these "
            "columns: prepare it with vectors as wide and with the same --feature-values, or leave --init-from out"
        )


def _check_same_run(path: Path, config: RunConfig, recipe: str, store: SessionStore) -> None:
    """Raises `UserError` unless the run in `path` has this config, recipe and data."""
    run = RunDirectory.open(str(path))
    state, go_on = "an unfinished", f"go on with that, by --config {path}/config.yaml, or choose another --run-dir"
    if run.finished:
        state, go_on = "a finished", f"show --run {path} prints its figures; choose another --run-dir"
    if run.record.recipe != recipe:
        raise UserError(f"{path} holds {state} run of {run.record.recipe}, not {recipe}: {go_on}")
    if difference := first_difference(run.config, config):
        raise UserError(f"{path} holds {state} run with {difference}: {go_on}")
    same_features = run.record.features_hash == (store.features.digest if store.features else None)
    if not (run.record.is_same(store.manifest) and run.record.reads_same(store.manifest) and same_features):
        raise UserError(
            f"{path} holds {state} run on other data than {store.path}, or another split of them: {go_on}, which may "
            "start from this run with --init-from"
        )


def first_difference(before: RunConfig, now: RunConfig) -> str:
    """The first field in which two configs make different runs, as the flags of both; empty where none is."""
    values, others = flatten(before), flatten(now)
    for path, value in values.items():
        if value != others[path] and path not in FREE_TO_CHANGE:
            return f"{_flag(path, value)}, not {_flag(path, others[path]).split(' ', 1)[-1]}"
    return ""


def _flag(path: str, value: Any) -> str:
    """A field as a command line sets it: a flag that is true or false takes no value."""
    section, dot, name = path.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{section}{dot}{'' if value else 'no-'}{name}"
    return f"--{section}{dot}{name} {value}"


def _restarted_directory(recipe: str) -> Path | None:
    """The directory that this launch created before its ranks were restarted."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID")
    if not launch or not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return None
    for file in Path("runs").glob(f"{glob.escape(recipe)}-[0-9][0-9][0-9]*/{RUN_RECORD}"):
        if read_json(file, "a run").get("launch") == launch:
            return file.parent
    return None


def _next_directory(recipe: str) -> Path:
    for number in range(1, 10_000):
        path = Path("runs") / f"{recipe}-{number:03}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise UserError("runs/ is full: name a directory with --run-dir")
