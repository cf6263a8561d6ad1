"""The steps of `prepare`: each shard reads its files, each groups its bucket, and one process merges them."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.common.mirrors import local
from skipwise.common.outputs import atomic_output, refuse_existing
from skipwise.common.stores import Place
from skipwise.datapipes.manifest import MANIFEST, Manifest
from skipwise.datapipes.prepare.column_roles import FLAGS
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.given_vocabulary import Known, given_vocabulary
from skipwise.datapipes.prepare.group_shard import ROWS, WITH_POINT, group_shard, read_shard
from skipwise.datapipes.prepare.named_source import with_source
from skipwise.datapipes.prepare.plain_errors import check_room, plain_errors
from skipwise.datapipes.prepare.publish import publish
from skipwise.datapipes.prepare.shard_options import ShardStep
from skipwise.datapipes.prepare.shard_records import (
    RECORD,
    GroupShard,
    ReadShard,
    check_files,
    find_num_shards,
    identity,
    is_record,
    list_files,
    places_of,
    read_shards,
    shard_folder,
    shard_of,
)
from skipwise.datapipes.prepare.skip_options import SKIPS
from skipwise.datapipes.prepare.sources import Log
from skipwise.datapipes.prepare.staging import connect

_POLL_S = 1.0
KINDS: dict[ShardStep, type[ReadShard] | type[GroupShard]] = {"read": ReadShard, "group": GroupShard}


@dataclass(frozen=True)
class Job:
    """A log, how it is prepared, and in how many shards."""

    config: PrepareConfig
    """With the options that a known source stands for."""
    log: Log
    known: Known | None
    """The tracks that the dataset has, where they are given."""
    identity: dict[str, Any]
    """What its shards must have in common."""

    @classmethod
    def of(cls, config: PrepareConfig, num_shards: int) -> "Job":
        """Looks at the log; raises `UserError` where options need what it has not."""
        known = given_vocabulary(config.vocabulary) if config.vocabulary else None
        config, patterns, missed = with_source(config)
        log = Log(config, patterns, missed)
        roles = log[0].roles
        if "order" not in roles and (config.in_time_unit or config.drop_duplicate_plays):
            raise UserError(
                f"{log[0].path} has no column of times or places, which --split time, --gap and --drop-duplicate-plays "
                f"need: leave them out"
            )
        if config.tracks:
            config = replace(config, tracks=local(config.tracks))
        if config.track_features:
            config = replace(config, track_features=local(config.track_features))
        return cls(config, log, known, identity(config, log.contents(), num_shards, known))

    @property
    def has_skips(self) -> bool:
        """Whether a column says what was skipped."""
        return bool(self.log[0].roles.keys() & {*SKIPS, *FLAGS})

    def made(self, manifest: Manifest) -> bool:
        """Whether a dataset is what these shards make, as its manifest tells: of tables beside the log it does not."""
        options = {name: of for name, of in self.identity["options"].items() if (name, of) != ("vocabulary", None)}
        return (
            not (self.config.tracks or self.config.track_features)
            and (manifest.sources, manifest.options) == (self.identity["log"], options)
            and self.identity["versions"].items() <= manifest.versions.items()
        )

    def look_at_all(self) -> None:
        """Looks at every file, so that what is wrong with the columns of one is said before the first is read."""
        for number in range(len(self.log)):
            self.log[number]

    def say_first(self) -> None:
        """Prints what is known before any row is read."""
        if not self.has_skips:
            note(
                "no column says what was skipped: every play counts as kept, unless --skip, --kept, --rating, "
                "--reason or --played names one"
            )

    def say_read(self, root: Path) -> None:
        """Prints what the places of the whole log tell, once it is read."""
        places, names = places_of(read_shards(root, ReadShard, self.identity)), self.identity["log"]
        order = self.log[0].roles.get("order")
        if backwards := [names[number]["file"] for number in sorted(places.newest_first)]:
            note(
                f"{', '.join(backwards[:3])}{' ...' if backwards[3:] else ''} "
                f"run{'s' * (len(backwards) == 1)} from new to old: of plays of the same {order}, the last row was "
                f"played first"
            )
        if pair := places.coarser():
            minutes, seconds = (names[number]["file"] for number in pair)
            note(
                f"warning: {minutes} has times to the minute and {seconds} more exact ones, of the same days: "
                f"a play that both have counts twice, so leave one of them out of --input if they are of one "
                f"listener"
            )

    def shard(self, step: ShardStep, root: Path, number: int, scratch: Path, folder: Path) -> None:
        """Does one shard's work, and writes it into `folder`; the shards of the step before are in `root`."""
        scratch.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        if step == "read":
            read_shard(self.config, self.log, number, self.identity, scratch, folder)
            return
        reads = self._folders(root, ReadShard, lambda name: name == WITH_POINT or f"{ROWS}/bucket={number}/" in name)
        group_shard(self.config, self.log, self.known, number, reads, self.identity, scratch, folder)

    def merge(self, root: Path, scratch: Path) -> Manifest:
        """Writes the dataset directory `scratch/result` from the shards in `root`."""
        reads = read_shards(root, ReadShard, self.identity)
        groups = self._folders(root, GroupShard, lambda name: True)
        with connect(self.config, scratch) as engine:
            return publish(engine, self.config, self.known, reads, groups, scratch)

    def _folders(self, root: Path, kind: Any, wanted: Callable[[str], bool]) -> dict[Path, Any]:
        """Returns all shards of a step by where their files are, of which `wanted` ones are fetched from a store."""
        shards = read_shards(root, kind, self.identity)
        found = {}
        for number, shard in enumerate(shards):
            folder = local(shard_folder(root, kind, number, len(shards)), wanted)
            check_files(shard, folder, number, wanted)
            found[folder] = shard
        return found


def shards_of(output: Path) -> Path:
    """Returns the folder of shards that a scheduler runs."""
    return output.with_name(f"{output.name}.shards")


def run_shard(config: PrepareConfig, step: ShardStep, num_shards: int, number: int) -> None:
    """Does one shard's work, which appears in `shards_of(config.output)` whole or not at all.

    One that is there is left as it is. Raises `UserError` for one of another log, or of other options.
    """
    check_room(config)
    with plain_errors(config):
        job, root = Job.of(config, num_shards), shards_of(config.output)
        kind = KINDS[step]
        folder = shard_folder(root, kind, number, num_shards)
        if is_there(folder):
            shard_of(folder, kind, job.identity)
            note(f"{folder} is there already")
            return
        with atomic_output(folder, False, lambda path: False) as scratch:
            job.shard(step, root, number, scratch.absolute(), scratch.absolute() / "result")
            list_files(scratch / "result")
    note(f"wrote {folder}")


def is_there(folder: Path) -> bool:
    """Whether a shard was written."""
    try:
        return (local(folder, lambda name: name == RECORD) / RECORD).is_file()
    except UserError:  # a store has nothing there
        return False


def is_dataset(path: Path) -> bool:
    """Whether a directory is a dataset, which `prepare` may replace."""
    return (path / MANIFEST).is_file()


def merge_shards(config: PrepareConfig, num_shards: int | None = None) -> tuple[Job, Manifest]:
    """Writes the dataset directory `config.output` from the shards in `shards_of(config.output)`, and removes these."""
    root = shards_of(config.output)
    job = Job.of(config, num_shards or find_num_shards(root))
    job.say_first()
    job.say_read(root)
    with atomic_output(config.output, config.overwrite, is_dataset) as scratch:
        manifest = job.merge(root, scratch.absolute())
    _remove(root)
    return job, manifest


def _remove(root: Path) -> None:
    """Removes the shards, of which the records go first."""
    if place := Place.of(root):
        for name in sorted(place.files(), key=lambda name: not is_record(name)):
            (place / name).remove()
    else:
        shutil.rmtree(root, ignore_errors=True)


def _is_merged(config: PrepareConfig) -> bool:
    """Whether the output is there already, of this log and these options."""
    try:
        manifest = Manifest.read(local(config.output, lambda name: name == MANIFEST))
    except UserError:
        return False
    with plain_errors(config):
        return Job.of(config, config.numbers[1]).made(manifest)


def run_together(config: PrepareConfig) -> bool:
    """Does what the steps of the shards have to do for `config.shard`, and waits for the other shards after each.

    Returns whether this is the shard whose process is to merge them; for any other once that is done. A shard that is
    started again after the merge has nothing to do.
    """
    number, num_shards = config.numbers
    root = shards_of(config.output)
    if not config.overwrite and _is_merged(config):
        note(f"{config.output} is there already, of this log and these options")
        if number == 0:
            _remove(root)  # where it was killed at that
        return False
    refuse_existing(config.output, config.overwrite, is_dataset)
    for step, kind in KINDS.items():
        run_shard(config, step, num_shards, number)
        if number > 0 and kind is GroupShard:  # shard 0 may have merged and removed them all before the next look
            break
        waits = {shard_folder(root, kind, other, num_shards) for other in range(num_shards)}
        if waits := {folder for folder in waits if not is_there(folder)}:
            note(f"waits for {len(waits)} of {num_shards} shards to {step}")
        while waits := {folder for folder in waits if not is_there(folder)}:
            time.sleep(_POLL_S)
    if number == 0:
        return True
    note("waits for shard 0 to merge")
    while is_there(shard_folder(root, GroupShard, number, num_shards)):
        time.sleep(_POLL_S)
    return False
