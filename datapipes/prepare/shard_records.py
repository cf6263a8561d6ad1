"""What the shards of a log say of themselves, so that only those of one log, with one set of options, are merged.

`read` shard i has files of the log, and writes their checked rows, those of each bucket apart. `group` shard j has
bucket j: the sessions of which a hash of the id lies in the j-th of as many equal ranges. As that hash orders the
dataset, the buckets one after the other are in its order.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from skipwise.common.errors import UserError
from skipwise.common.files import FileRecord, read_json, write_json
from skipwise.common.mirrors import local
from skipwise.common.schema import Count, StrictModel, validate
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.given_vocabulary import Known
from skipwise.datapipes.prepare.log_places import FilePlaces, Places
from skipwise.datapipes.prepare.plausible import Seen
from skipwise.datapipes.prepare.shard_options import ShardStep
from skipwise.datapipes.prepare.staging import versions

RECORD = "shard.json"


class Shard(StrictModel):
    """What both kinds of shards say."""

    step: ClassVar[ShardStep]
    num_shards: Annotated[int, Field(ge=1)]
    log: list[dict[str, Any]]
    """The files of the log: `file` (a name) and `bytes`."""
    options: dict[str, Any]
    """Those that decide what the dataset holds."""
    versions: dict[str, str]
    """The tools."""
    files: list[FileRecord] = []
    """What it holds, where other processes read it."""


class ReadShard(Shard):
    """Some files of a log."""

    step = "read"
    roles: dict[str, str]
    """From what a column means to its name in the first file of the log."""
    left_out: Count
    """Rows that `--where` leaves out."""
    dates: bool
    """Whether places are dates and times."""
    places: list[FilePlaces]
    """Of each of its files, where rows have places."""


class GroupShard(Shard):
    """The sessions of a bucket."""

    step = "group"
    rows: Count
    sessions: Count
    """Those that passed the filters."""
    dropped_sessions: dict[str, Count]
    dropped_rows: dict[str, Count]
    """By reason."""
    words: dict[str, list[str]]
    """The values of each context column of words."""
    ids: list[Count]
    """Of the session ids: how many there are with `.0` behind them too, how many look like lists, and all."""
    seen: Seen
    """What the warnings need."""

    def codes(self) -> list[str]:
        """Returns what the codes of words stand for in the staged sessions, see `number_texts`."""
        return sorted({"", *chain(*self.words.values())})


AnyShard = TypeVar("AnyShard", bound=Shard)


def identity(config: PrepareConfig, log: list[dict[str, Any]], num_shards: int, known: Known | None) -> dict[str, Any]:
    """Returns the fields of `Shard`: equal ones may be merged."""
    options = config.contents() | {"vocabulary": known.digest if known else None}
    return {
        "num_shards": num_shards,
        "log": log,
        "options": json.loads(json.dumps(options)),
        "versions": versions(),
    }


def shard_folder(root: Path, kind: type[Shard], number: int, num_shards: int) -> Path:
    """Returns where a shard stands."""
    return root / f"{kind.step}-{number:04}-of-{num_shards:04}"


def find_num_shards(root: Path) -> int:
    """Returns how many shards the log was cut in, by the names of those that are there."""
    found = sorted({int(folder.parent.name.split("-")[-1]) for folder in local(root, is_record).glob(f"*/{RECORD}")})
    if not found:
        raise UserError(f"{root} has no shards: run --step read and --step group for each of --shard 0/N to N-1/N")
    if len(found) > 1:
        raise UserError(
            f"{root} has shards of {' and of '.join(map(str, found))}: remove the folders of all counts but one "
            f"(*-of-{found[-1]:04} are of {found[-1]}), then merge again"
        )
    return found[0]


def is_record(name: str) -> bool:
    """Whether a file of a folder of shards says what one of them is."""
    return name.endswith(RECORD)


def write_shard(folder: Path, shard: Shard) -> None:
    """Writes what the shard in `folder` says of itself, after its files."""
    write_json(folder / RECORD, shard.model_dump(mode="json"))


def list_files(folder: Path) -> None:
    """Adds to the record of the shard in `folder` what files it has, for those who read them in another process."""
    content = read_json(folder / RECORD, "a shard")
    names = sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != RECORD
    )
    write_json(folder / RECORD, content | {"files": [FileRecord.of(folder, name).model_dump() for name in names]})


def check_files(shard: Shard, folder: Path, number: int, wanted: Callable[[str], bool]) -> None:
    """Raises `UserError` where one of the `wanted` files of a shard in `folder` is not as it was written."""
    for record in shard.files:
        if wanted(record.file) and (problem := record.problem(folder)):
            again = f"--step {shard.step} --shard {number}/{shard.num_shards}"
            raise UserError(f"{problem}: remove the folder {folder.name} and run {again} again")


def read_shards(root: Path, kind: type[AnyShard], expected: dict[str, Any]) -> list[AnyShard]:
    """Returns the shards of a kind, by their numbers.

    Raises `UserError` for one that is missing, or is of another log, other options or tools than `expected`, see
    `identity`.
    """
    folders = [shard_folder(root, kind, number, expected["num_shards"]) for number in range(expected["num_shards"])]
    return [shard_of(folder, kind, expected) for folder in folders]


def shard_of(folder: Path, kind: type[AnyShard], expected: dict[str, Any]) -> AnyShard:
    """Returns what the shard in `folder` says of itself; raises as `read_shards` does."""
    name, number = kind.step, int(folder.name.split("-")[1])
    again = f"--step {name} --shard {number}/{expected['num_shards']}"
    file = local(folder.parent, is_record) / folder.name / RECORD
    if not file.is_file():
        raise UserError(f"{folder} is missing: run {again} with the same options, or again where it was killed")
    content = read_json(file, f"what {again} wrote")
    shard = validate(kind, content, file, f"remove {folder} and run {again}")
    for field, what in (("log", "another log"), ("options", "other options"), ("versions", "other tools")):
        if (found := getattr(shard, field)) != (wanted := expected[field]):
            raise UserError(
                f"{folder} is of {what} ({difference(found, wanted)}): remove {folder.parent}, or choose another "
                f"--output"
            )
    return shard


def difference(found: Any, wanted: Any) -> str:
    """Says where two records differ, in a few words."""
    if isinstance(found, dict):
        name = next(name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name))
        return f"{name} {json.dumps(found.get(name))[:60]}, not {json.dumps(wanted.get(name))[:60]}"
    pairs = ((one, other) for one, other in zip(found, wanted, strict=False) if one != other)
    if one := next(pairs, None):
        return f"{one[0].get('file')} of {one[0].get('bytes'):,} bytes, not {one[1]['file']} of {one[1]['bytes']:,}"
    return f"{len(found):,} files, not {len(wanted):,}"


def places_of(shards: Iterable[ReadShard]) -> Places:
    """Returns what is known of the places of the whole log."""
    shards = list(shards)
    files = sorted((of for shard in shards for of in shard.places), key=lambda of: of.file)
    return Places(any(shard.dates for shard in shards), files)


def total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """Returns the sums of counts by name."""
    found = Counter[str]()
    for of in counts:
        found.update(of)
    return found
