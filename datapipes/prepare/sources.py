"""The files of a log, as their first rows show them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from skipwise.common.errors import UserError
from skipwise.common.tables import open_table
from skipwise.datapipes.nested import leaves
from skipwise.datapipes.prepare.column_roles import CONTEXT, USER, with_roles
from skipwise.datapipes.prepare.config import REST, USER_OF_FILE, PrepareConfig
from skipwise.datapipes.prepare.json_rows import json_leaves, json_shape
from skipwise.datapipes.prepare.log_files import JSON, LogFile, encoding_of, head_of, logs_of, stem_of, suffix_of
from skipwise.datapipes.prepare.log_source import Format, Source
from skipwise.datapipes.prepare.text_layout import TYPED, Layout, text_layout
from skipwise.datapipes.session_files import DAMAGED


class Log:
    """The files that `config.input` names, sorted by name, whatever the order of the arguments; each is looked at when
    it is asked for."""

    def __init__(self, config: PrepareConfig, patterns: tuple[str, ...] = ("*",), missed: frozenset[str] = frozenset()):
        """Of folders, the files that match one of the `patterns`. `missed`: columns that a known source lacks."""
        self._config, self._missed = config, missed
        self._files = logs_of(config.input, patterns)
        self._sources: dict[int, Source] = {}
        self.sizes = [log.path.stat().st_size for log in self._files]
        """Bytes of each file."""
        users: dict[str, Path] = {}
        stems: dict[Path, Path] = {}
        for log in self._files:
            if config.user == USER_OF_FILE and (other := users.setdefault(log.user, log.path)) != log.path:
                raise UserError(
                    f"{other} and {log.path} would both be of the listener '{log.user}' with --user {USER_OF_FILE}: "
                    f"rename one of them"
                )
            if not log.named and (other := stems.setdefault(stem_of(log.path), log.path)) != log.path:
                raise UserError(
                    f"{other} and {log.path} differ in their format alone: if they hold the same plays, give one of "
                    f"them with --input, and otherwise both by name"
                )

    def __len__(self) -> int:
        return len(self._files)

    def contents(self) -> list[dict[str, Any]]:
        """Returns the name and the bytes of each file, for a manifest."""
        return [{"file": log.path.name, "bytes": size} for log, size in zip(self._files, self.sizes, strict=True)]

    def __getitem__(self, number: int) -> Source:
        """Returns a file as its first rows show it; raises `UserError` where it holds other columns than the first."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        if number not in self._sources:
            source = inspect(self._files[number], self._config)
            self._sources[number] = replace(source, missed=source.missed | self._missed)
            refuse_other_columns(self[0], self._sources[number])
        return self._sources[number]


def inspect(log: LogFile, config: PrepareConfig) -> Source:
    """Reads the first lines of a file, or its schema, and finds the roles of its columns."""
    source = look(log, config)
    return source if source.roles else with_roles(source, config)


def look(log: LogFile, config: PrepareConfig) -> Source:
    """Reads the first lines of a file, or its schema; roles are known only where they need no names."""
    path, suffix = log.path, suffix_of(log.path)
    fixed = dict(log.partitions)
    if config.user is not None:
        fixed[USER] = log.user if config.user == USER_OF_FILE else config.user
    head = head_of(path, 1 << 12)
    if suffix == ".parquet" or head.startswith(b"PAR1"):
        try:
            with open_table(path) as table:
                found = dict(leaves(table.schema))
        except DAMAGED:
            raise UserError(f"{path} is not a Parquet file, or is cut short: copy it again") from None
        return Source(path, "parquet", (*found,), {}, leaves=found, fixed=fixed)
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


def refuse_other_columns(first: Source, other: Source) -> None:
    """Raises `UserError` where two files of a log do not hold the same information."""
    for here, there in ((first, other), (other, first)):
        if missing := sorted(here.roles.keys() - there.roles.keys()):
            name = here.roles[missing[0]]
            hint = ", or keep the context columns that both have with --context" if missing[0] in CONTEXT else ""
            raise UserError(
                f"{there.path} has no column '{name}', which {here.path} has: prepare them separately{hint}"
            )
