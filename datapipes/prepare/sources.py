"""The files of a log, and the roles of their columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.common.tables import open_table
from skipwise.datapipes.nested import Leaf, leaves
from skipwise.datapipes.prepare.config import FILE_ORDER, MOST_CONTEXT, REST, USER_OF_FILE, PrepareConfig
from skipwise.datapipes.prepare.json_rows import SAMPLE, json_leaves, json_shape
from skipwise.datapipes.prepare.known_sources import known_by
from skipwise.datapipes.prepare.log_files import JSON, UTF_8, LogFile, encoding_of, head_of, logs_of, stem_of, suffix_of
from skipwise.datapipes.prepare.row_condition import condition_of, wrong
from skipwise.datapipes.prepare.skip_options import SKIPS
from skipwise.datapipes.prepare.text_layout import TYPED, Layout, text_layout
from skipwise.datapipes.session_files import DAMAGED

Format = Literal["text", "sequences", "json", "parquet"]
USER = "--user"
"""The column of the listener whose log a file is."""
NO_SESSION = (
    f"where no column tells listeners apart --user NAME, or --user {USER_OF_FILE} where each file is a listener's"
)
NO_LATER = (
    f"; at most the first {SAMPLE:,} records are looked at: if only later ones have it, give an early one that field, "
    f"with null"
)
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
    format: Format
    """`text`: a play a line; `sequences`: a session a line, its id and then its tracks."""
    names: tuple[str, ...]
    """Its columns, in order; those inside others by dotted names."""
    roles: dict[str, str]
    """From what a column means (`session`, `track`, `order`, `skip_1`, `premium`, ...) to its name in the file, or in
    `fixed` or `joined`."""
    layout: Layout = Layout("", False, UTF_8, 0)
    """How its text is written; unused for Parquet."""
    leaves: dict[str, Leaf] = field(default_factory=dict)
    """Of JSON and Parquet: where a column is."""
    fixed: dict[str, str | None] = field(default_factory=dict)
    """Columns of one value for the whole file: Hive partitions, and the listener of --user."""
    joined: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns that are made of several."""
    missed: frozenset[str] = frozenset()
    """Columns that were looked for and need not be there."""
    shape: Any = None
    """Of JSON: the structure of its records, see `json_rows.json_shape`."""

    def parts(self, name: str) -> tuple[str, ...]:
        """The columns that this one is made of."""
        return self.joined.get(name, (name,))

    @property
    def read_names(self) -> list[str]:
        """The columns of the file that are read: at least one."""
        parts = [part for name in self.roles.values() for part in self.parts(name)]
        return [name for name in dict.fromkeys(parts) if name not in self.fixed] or [self.names[0]]


def context_names(roles: dict[str, str]) -> dict[str, str]:
    """From the roles of context columns, in their order, to their names in a dataset."""
    return {
        role: role if role in CONTEXT else roles[role].removeprefix(PREFIX)
        for role in (*CONTEXT, *NAMED)
        if role in roles
    }


def find_sources(
    config: PrepareConfig, patterns: tuple[str, ...] = ("*",), missed: frozenset[str] = frozenset()
) -> list[Source]:
    """Returns the files that `config.input` names, sorted by name, whatever the order of the arguments.

    Of folders, those that match one of the `patterns`. `missed`: columns that a known source lacks.
    """
    sources: list[Source] = []
    files: dict[str, Path] = {}
    stems: dict[Path, Path] = {}
    for log in logs_of(config.input, patterns):
        if config.user == USER_OF_FILE and (other := files.setdefault(log.user, log.path)) != log.path:
            raise UserError(
                f"{other} and {log.path} would both be of the listener '{log.user}' with --user {USER_OF_FILE}: "
                f"rename one of them"
            )
        if log.path not in config.input and (other := stems.setdefault(stem_of(log.path), log.path)) != log.path:
            raise UserError(
                f"{other} and {log.path} differ in their format alone: if they hold the same plays, give one of them "
                f"with --input, and otherwise both by name"
            )
        source = inspect(log, config)
        sources.append(replace(source, missed=source.missed | missed))
        refuse_other_columns(sources[0], sources[-1])
    return sources


def inspect(log: LogFile, config: PrepareConfig) -> Source:
    """Reads the first lines of a file, or its schema, and finds the roles of its columns."""
    source = look(log, config)
    if source.roles:
        return source
    return with_roles(source, config) if source.format in ("text", "sequences") else nested_source(source, config)


def look(log: LogFile, config: PrepareConfig) -> Source:
    """Reads the first lines of a file, or its schema; roles are known only where they need no names."""
    path, suffix = log.path, suffix_of(log.path)
    fixed = dict(log.partitions)
    if config.user is not None:
        fixed[USER] = log.user if config.user == USER_OF_FILE else config.user
    if suffix == ".parquet":
        try:
            with open_table(path) as table:
                found = dict(leaves(table.schema))
        except DAMAGED:
            raise UserError(f"{path} is not a Parquet file, or is cut short: copy it again") from None
        return Source(path, "parquet", (*found,), {}, leaves=found, fixed=fixed)
    head = head_of(path, 1 << 12)
    if suffix in JSON or re.match(rb"(\xef\xbb\xbf)?\s*(\[\s*)?\{", head):
        layout = Layout("", False, encoding_of(head), 0)
        shape = json_shape(path, layout.encoding)
        found = json_leaves(shape)
        return Source(path, "json", (*found,), {}, layout, found, fixed, shape=shape)
    goes_on = bool(config.columns) and config.columns[-1].endswith(REST)
    layout, names, rows = text_layout(path, suffix, config.delimiter, 0 if goes_on else len(config.columns))
    plain = Source(path, "text", (), {}, layout, fixed=fixed)
    if goes_on:
        return replace(plain, format="sequences", names=(config.columns[0], config.columns[-1].removesuffix(REST)))
    typed = [TYPED.fullmatch(name) for name in names]
    if config.columns:
        if len(config.columns) != len(names):
            flag = "--tracks-columns" if path == config.tracks else "--columns"
            raise UserError(
                f"{path} has {len(names)} columns, {flag} names {len(config.columns)}: name each, or give what is "
                f"between them with --delimiter"
            )
        header, names = all(typed), [*config.columns]
    elif is_of_numbers(suffix, rows) and config.user is None:
        of: Format = "text" if {*map(len, rows)} == {2} else "sequences"
        return replace(plain, format=of, names=("0", "1"), roles={"session": "0", "track": "1"}, fixed={})
    else:
        header, names = True, [match[1] if match else name.strip() for match, name in zip(typed, names, strict=True)]
        if {len(row) for row in rows[1:]} == {len(names) + 1} and not any(row[-1] for row in rows[1:]):
            names.append("")
        elif {len(row) for row in rows[1:]} == {len(names) - 1} and not names[-1]:
            names.pop()
    return replace(plain, names=tuple(names), layout=replace(layout, first=layout.first + header))


def is_of_numbers(suffix: str, rows: list[list[str]]) -> bool:
    """Whether a file without names has lines of two whole numbers, or of different numbers of them."""
    return (
        suffix == ".txt"
        and all(field.isdigit() for row in rows for field in row if field)
        and (len({*map(len, rows)}) > 1 or len(rows[0]) == 2)
    )


def with_roles(source: Source, config: PrepareConfig) -> Source:
    """Returns a source whose columns are known with their roles; its own columns go before those of its folders."""
    source = replace(source, fixed={name: of for name, of in source.fixed.items() if name not in source.names})
    joined: dict[str, tuple[str, ...]] = {}
    missed: set[str] = set()
    roles = roles_of(source, config, joined, missed)
    names = (*source.names, *source.fixed)
    for role, wanted in condition_of(config.where).columns.items() if config.where is not None else ():
        if wanted not in names:
            later = NO_LATER if source.format == "json" else ""
            have = f"it has {brief_list(names)}{later}"
            raise wrong(config.where or "", f"{source.path} has no column '{wanted}', {have}")
        roles[role] = wanted
    return replace(source, roles=roles, joined=joined, missed=frozenset(missed))


def nested_source(source: Source, config: PrepareConfig) -> Source:
    """Returns a source of JSON or Parquet with the roles of its columns; raises `UserError` for what has no text."""
    path, found = source.path, source.leaves
    if config.columns:
        raise UserError(
            f"{path} names its columns itself ({brief_list(tuple(found))}): leave --columns out, and name these with "
            f"--session (or {NO_SESSION}), --track and --order"
        )
    source = with_roles(source, config)
    roles = {name: role for role, name in source.roles.items()}
    track = source.roles["track"]
    in_lists = any(found[name].lists for name in source.parts(track) if name in found)
    in_ids = (*source.parts(track), *source.parts(source.roles.get("session", "")))
    for name in source.read_names:
        kind, lists = found[name].kind, found[name].lists
        if pa.types.is_nested(kind) or lists > 1:
            raise UserError(
                f"{path}, column '{name}' holds lists of lists or maps: expected one value a row, or a list"
            )
        if source.format == "json" and name in in_ids and kind == pa.json_():
            note(
                f"warning: {path}, column '{name}' holds values of several kinds, which count as their text: 1 and "
                f'"1" are one id'
            )
        if lists and not in_lists:
            raise UserError(
                f"{path}, column '{name}' holds lists or structs, and '{track}' does not: expected "
                f"one value a row, or a list of the tracks beside it"
            )
        if roles.get(name) in NAMED and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise UserError(
                f"{path}, column '{name}' holds numbers with fractions ({kind}): expected words, whole numbers or "
                f"flags; make them whole numbers, or leave it out of --context"
            )
    return source


def brief_list(names: Sequence[str]) -> str:
    """Returns names as a sentence shows them: some 300 characters."""
    text = ", ".join(names)
    return text if len(text) <= 300 else f"{text[:300].rpartition(', ')[0] or text[:300]}, ..."


def roles_of(
    source: Source, config: PrepareConfig, joined: dict[str, tuple[str, ...]], missed: set[str]
) -> dict[str, str]:
    """Finds the column of each role; adds those made of several to `joined`, and those that are not there to `missed`.

    Raises `UserError` for one that is missing or ambiguous.
    """
    path, names = source.path, (*source.names, *source.fixed)
    headless = ", or the columns of a file without a header line with --columns" if source.format == "text" else ""
    if headless and source.layout.delimiter == " ":
        headless += f" (--columns user track{REST} where a line holds a session and all its tracks)"
    if source.format == "json":
        headless = NO_LATER

    def find(wanted: str) -> str | None:
        found = [name for name in names if name == wanted] or [name for name in names if name == PREFIX + wanted]
        if len(found) > 1:
            raise UserError(f"{path} has {len(found)} columns named '{wanted}': rename all but one")
        missed.update(() if found else (wanted,))
        return found[0] if found else None

    def need(wanted: str, flag: str) -> str:
        if (name := find(wanted)) is None:
            known = known_by(names)
            told = f"--source {known.name} knows these columns" if known else f"--explain {path} proposes options"
            raise UserError(
                f"{path} has no column '{wanted}' (its columns are {brief_list(names)}): name the right one with "
                f"{flag}{headless}; {told}"
            )
        return name

    def join(wanted: str | tuple[str, ...], flag: str) -> str:
        parts = (wanted,) if isinstance(wanted, str) else wanted
        found = tuple(need(part, flag) for part in parts)
        if len(found) == 1:
            return found[0]
        joined[" + ".join(found)] = found
        return " + ".join(found)

    if path == config.tracks:
        own = (config.track,) if isinstance(config.track, str) else config.track
        if not (all(map(find, own)) or find("track_id")):
            raise UserError(
                f"{path} has no column '{' + '.join(own)}' (its columns are {brief_list(names)}): give its column "
                f"of track ids that name, or track_id"
            )
        track = join(own if all(map(find, own)) else "track_id", "--track")
        return {"track": track, **{role: need(*column) for role, column in config.names.items()}}
    session = USER if config.user is not None else join(config.session, f"--session (or {NO_SESSION})")
    roles = {"session": session, "track": join(config.track, "--track")}
    if not config.tracks:
        roles |= {role: need(*column) for role, column in config.names.items()}
    if config.order != FILE_ORDER:
        roles["order"] = need(config.order, "--order (or say --order file if rows stand in play order)")
    chosen = {role: wanted for role in (*SKIPS, "duration") if (wanted := getattr(config, role))}
    roles |= {role: need(wanted, "--" + role.replace("_", "-")) for role, wanted in chosen.items()}
    if not chosen and any(find(flag) for flag in FLAGS):
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
