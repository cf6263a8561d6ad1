"""The files of a log, and the roles of their columns."""

import csv
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import pyarrow as pa

from skipwise.common.errors import UserError, brief
from skipwise.common.files import require_regular_file
from skipwise.common.tables import open_table
from skipwise.datapipes.prepare.config import FILE_ORDER, MOST_CONTEXT, SKIPS, PrepareConfig, utf8
from skipwise.datapipes.session_files import DAMAGED

SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": " ", ".parquet": ""}
PREFIX = "hist_user_behavior_"
FLAGS = ("skip_1", "skip_2", "skip_3")
CONTEXT = {
    "context_type": ("context_type",),
    "hour_of_day": ("hour_of_day",),
    "premium": ("premium",),
    "shuffle": ("is_shuffle", "shuffle"),
    "reason_start": ("reason_start",),
    "reason_end": ("reason_end",),
}
"""MSSD's context columns, each with its names without the prefix."""
NAMED = tuple(f"context_{number}" for number in range(1, MOST_CONTEXT + 1))
"""The roles of other columns that `--context` names: a log's own names could mean anything to SQL."""
WORDS = ("context_type", "reason_start", "reason_end", *NAMED)


@dataclass(frozen=True)
class Source:
    """One file of a log."""

    path: Path
    suffix: str
    """`.csv`, `.tsv`, `.txt` or `.parquet`."""
    delimiter: str
    """Between the fields of a line; empty for Parquet."""
    names: tuple[str, ...]
    """Its columns, in order."""
    header: bool
    """Whether its first line holds the names."""
    roles: dict[str, str]
    """From what a column means (`session`, `track`, `order`, `skip_1`, `premium`, ...) to its name in the file."""


def context_names(roles: dict[str, str]) -> dict[str, str]:
    """From the roles of context columns, in their order, to their names in a dataset."""
    return {
        role: role if role in CONTEXT else roles[role].removeprefix(PREFIX)
        for role in (*CONTEXT, *NAMED)
        if role in roles
    }


def open_bytes(path: Path) -> BinaryIO:
    """Opens a file for reading, through gzip where its name ends in .gz."""
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def suffix_of(path: Path) -> str:
    """Returns the suffix that decides the format: the last one before .gz."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def find_sources(config: PrepareConfig) -> list[Source]:
    """Returns the files that `config.input` names, sorted by name, whatever the order of the arguments."""
    try:
        files = {file.resolve(): file for path in config.input for file in files_of(path)}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check --input") from None
    sources: list[Source] = []
    for path in sorted(files.values(), key=lambda file: (file.name, str(file))):
        sources.append(inspect(path, config))
        refuse_other_columns(sources[0], sources[-1])
    return sources


def files_of(path: Path) -> list[Path]:
    """Returns `path`, or the logs in it where it is a folder."""
    if path.is_dir():
        found = [file for file in path.iterdir() if suffix_of(file) in SUFFIXES and not file.name.startswith(".")]
        if not found:
            raise UserError(f"{path} holds no .csv, .tsv, .txt or .parquet file: expected a folder of logs")
    elif not path.exists():
        raise UserError(f"{path} does not exist: check --input")
    elif suffix_of(path) not in SUFFIXES or (path.suffix == ".gz" and suffix_of(path) == ".parquet"):
        raise UserError(f"{path} is of no known format: expected .csv, .tsv, .txt (also with .gz) or .parquet")
    else:
        found = [path]
    for file in found:
        require_regular_file(file)
        if not utf8(str(file)):
            raise UserError(f"the name of {file} is not UTF-8: rename it")
    return found


def inspect(path: Path, config: PrepareConfig) -> Source:
    """Reads the first line of a file, or its schema, and finds the roles of its columns."""
    suffix = suffix_of(path)
    if suffix == ".parquet":
        try:
            with open_table(path) as table:
                schema = table.schema
        except DAMAGED:
            raise UserError(f"{path} is not a Parquet file, or is cut short: copy it again") from None
        roles = roles_of(tuple(schema.names), config, path)
        for role, name in roles.items():
            kind = schema.field(name).type
            if pa.types.is_nested(kind):
                raise UserError(f"{path}, column '{name}' holds lists or structs: expected one value a row")
            if role in NAMED and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
                raise UserError(
                    f"{path}, column '{name}' holds numbers with fractions ({kind}): expected words, whole numbers or "
                    f"flags; make them whole numbers, or leave it out of --context"
                )
        return Source(path, suffix, "", tuple(schema.names), True, roles)
    line = first_line(path)
    delimiter = "\t" if suffix == ".txt" and "\t" in line else SUFFIXES[suffix]
    try:
        names = tuple(next(csv.reader([line], delimiter=delimiter, quoting=quoting(suffix), strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{path}, line 1 cannot be read ({brief(error).split(' - ')[0]}): expected fields of less than 128 KiB, "
            f"quotes that are closed, and a line feed at its end"
        ) from None
    if config.columns:
        if len(config.columns) != len(names):
            raise UserError(f"{path} has {len(names)} columns, --columns names {len(config.columns)}: name each")
        names = config.columns
    elif suffix == ".txt" and len(names) == 2 and all(name.isdigit() for name in names):
        return Source(path, suffix, delimiter, ("0", "1"), False, {"session": "0", "track": "1"})
    return Source(path, suffix, delimiter, names, not config.columns, roles_of(names, config, path))


def quoting(suffix: str) -> Literal[0, 3]:
    """Returns the csv module's quoting: only .csv has quotes, elsewhere a quote is an ordinary character."""
    return csv.QUOTE_MINIMAL if suffix == ".csv" else csv.QUOTE_NONE


def first_line(path: Path) -> str:
    """Returns the first line of a text file, without its line break."""
    try:
        with open_bytes(path) as file:
            line = file.readline(1 << 20).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}, line 1 is not UTF-8: save the file as UTF-8") from None
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{path} cannot be read, or is not the gzip file its name says: copy it again") from None
    if not line:
        raise UserError(f"{path} is empty, or its first line is: expected a header line and rows of plays")
    return line


def roles_of(names: tuple[str, ...], config: PrepareConfig, path: Path) -> dict[str, str]:
    """Finds the column of each role; raises `UserError` for one that is missing or ambiguous."""

    def find(wanted: str) -> str | None:
        found = [name for name in names if name == wanted] or [name for name in names if name == PREFIX + wanted]
        if len(found) > 1:
            raise UserError(f"{path} has {len(found)} columns named '{wanted}': rename all but one")
        return found[0] if found else None

    def need(wanted: str, flag: str) -> str:
        if (name := find(wanted)) is None:
            raise UserError(
                f"{path} has no column '{wanted}' (its columns are {', '.join(names)[:300]}): name the right one with "
                f"{flag}, or the columns of a file without a header line with --columns"
            )
        return name

    roles = {"session": need(config.session, "--session"), "track": need(config.track, "--track")}
    if config.order != FILE_ORDER:
        roles["order"] = need(config.order, "--order (or say --order file if rows stand in play order)")
    if chosen := next((role for role in SKIPS if getattr(config, role)), None):
        roles[chosen] = need(getattr(config, chosen), "--" + chosen.replace("_", "-"))
    elif any(find(flag) for flag in FLAGS):
        roles.update({flag: need(flag, "--skip or --skip-strength") for flag in FLAGS})
        if kept := find("not_skipped"):
            roles["not_skipped"] = kept
    if config.context is None:
        present = {role: next(filter(None, map(find, options)), None) for role, options in CONTEXT.items()}
        return roles | {role: name for role, name in present.items() if name and name not in roles.values()}
    known = {option: role for role, options in CONTEXT.items() for option in options}
    for wanted, role in zip(config.context, NAMED, strict=False):
        role = known.get(wanted.removeprefix(PREFIX), role)
        if role in roles:
            raise UserError(f"--context names '{wanted}', which is {roles[role]} again: name it once")
        roles[role] = need(wanted, "--context")
    return roles


def refuse_other_columns(first: Source, other: Source) -> None:
    """Raises `UserError` where two files of a log do not hold the same information."""
    for here, there in ((first, other), (other, first)):
        if missing := sorted(here.roles.keys() - there.roles.keys()):
            name = here.roles[missing[0]]
            hint = ", or keep the context columns that both have with --context" if missing[0] in CONTEXT else ""
            raise UserError(
                f"{there.path} has no column '{name}', which {here.path} has: prepare them separately{hint}"
            )
