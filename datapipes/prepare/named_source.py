"""`prepare --source`: the options of a source that is known by name, for the form that its first file has."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import fields, replace
from fnmatch import filter as filter_names
from itertools import islice
from pathlib import Path
from typing import Any

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.datapipes.prepare.config import USER_OF_FILE, Default, PrepareConfig
from skipwise.datapipes.prepare.known_sources import SOURCES, Known, known_by
from skipwise.datapipes.prepare.log_files import LogFile, logs_of
from skipwise.datapipes.prepare.log_source import Source, brief_list
from skipwise.datapipes.prepare.skip_options import SKIPS, SkipOptions
from skipwise.datapipes.prepare.sources import look

NEEDS = {"reason": ("skip_reasons", "keep_reasons"), "played": ("duration", "skip_under", "played_unit")}
"""Options that go with a column."""
OPTIONAL = (*SKIPS, "duration", "title", "artist")
"""Options that name a column which a source may lack."""


def with_source(config: PrepareConfig) -> tuple[PrepareConfig, tuple[str, ...], frozenset[str]]:
    """Returns the options of `config.source` under those that are given, the patterns of its files' names, and the
    columns that a log of it may have and the first file lacks.

    Raises `UserError` where the log has no form of this source.
    """
    if config.source is None:
        return config, ("*",), frozenset()
    forms = [known for known in SOURCES if known.name == config.source]
    patterns = tuple(dict.fromkeys(pattern for known in forms for pattern in known.files))
    plain = PrepareConfig(input=config.input, output=config.output, delimiter=config.delimiter)
    logs = logs_of(config.input, patterns)
    first, known = recognised(logs, forms, plain)
    if known is None:
        expected = " or ".join(", ".join(of.columns or of.options["columns"]) for of in forms)
        raise UserError(
            f"{first.path} is not as --source {config.source} knows it (its columns are "
            f"{brief_list(first.names)}; expected {expected}): name them with --session, --track and --order"
        )
    options = {name: value for name, value in options_of(known, first, config).items() if not is_given(config, name)}
    note(f"--source {config.source}: {' '.join(arguments(options))}")
    read = logs_of(config.input, known.files)
    if others := [log.path.name for log in logs if log not in read]:
        note(f"not read, as they are of another form or hold the same plays: {brief_list(others)}")
    folders = folders_of(log.path for log in read)
    if len(folders) > 1 and not is_given(config, "user"):
        told = "plays that stand in several of them count twice: give one folder with --input"
        if "user" in options:
            told = (
                f"all plays count as those of one listener, '{options['user']}': if each folder is of another, prepare "
                f"one at a time with --user NAME; if each file is, add --user {USER_OF_FILE}"
            )
        note(f"warning: the files stand in {len(folders)} folders ({brief_list([*map(str, folders)])}), and {told}")
    every = options_of(known, replace(first, names=(*first.names, *map(str, known.options.values()))), config)
    missed = {every[name] for name in OPTIONAL if name in every.keys() - options.keys() and not is_given(config, name)}
    return replaced(config, options), known.files, frozenset(missed)


def folders_of(paths: Iterable[Path]) -> list[Path]:
    """Returns the folders of files, without those at their end that are named by a year or another number."""
    found = set()
    for folder in (path.parent for path in paths):
        while re.fullmatch(r"(\w+=.*|\d+)", folder.name):
            folder = folder.parent
        found.add(folder)
    return sorted(found)


def recognised(logs: list[LogFile], forms: Iterable[Known], config: PrepareConfig) -> tuple[Source, Known | None]:
    """Returns the first file of the first form that has one, and the form; or the first file, and None.

    A file has a name of the form, or --input names it, and its columns or, without a header line, as many.
    """
    looked: dict[Path, Source] = {}
    for known in forms:
        of_form = (log for log in logs if any(map(log.path.match, known.files)))
        for log in [*islice(of_form, 1), *(log for log in logs if known.columns and log.named)]:
            source = looked[log.path] = looked.get(log.path) or look(log, config)
            headless = source.format == "text" and len(source.names) == len(known.options.get("columns", ()))
            if known_by(source.names, (known,)) if known.columns else headless:
                return source, known
    return looked.get(logs[0].path) or look(logs[0], config), None


def options_of(known: Known, source: Source, config: PrepareConfig) -> dict[str, Any]:
    """Returns the options of a form, but those that name a column it lacks, or that given ones take the place of."""
    names = {*known.options.get("columns", source.names)}
    options = dict(known.options)
    if str(options.get("order", "")).endswith("*"):
        options["order"] = filter_names(source.names, options["order"])[0]
    for name in OPTIONAL:
        beside = config.tracks is not None and name in ("title", "artist")
        if name in options and options[name] not in names and not beside:
            for other in (name, *NEEDS.get(name, ())):
                options.pop(other, None)
    if config.tracks is None:
        options.pop("tracks_columns", None)
    if any(is_given(config, name) for name in SKIPS):
        options = {name: value for name, value in options.items() if name not in vars(SkipOptions())}
    if is_given(config, "session"):
        options.pop("user", None)
    if is_given(config, "user"):
        options.pop("session", None)
    return options


def is_given(config: PrepareConfig, name: str) -> bool:
    """Whether an option is not left at its default; a name or a number may be given that is equal to it."""
    (default,) = (field.default for field in fields(config) if field.name == name)
    value = getattr(config, name)
    return value != default or (isinstance(default, Default | float) and value is not default)


def replaced(config: PrepareConfig, options: dict[str, Any]) -> PrepareConfig:
    """Returns the config with these options and without --source; raises `UserError` where they do not go together."""
    try:
        return replace(config, **{**options, "source": None})
    except ValueError as error:
        raise UserError(f"--source {config.source}: {error}" if config.source else str(error)) from None


def arguments(options: dict[str, Any]) -> list[str]:
    """Returns options as they are written in a shell."""
    written = []
    for name, value in options.items():
        values = [] if value is True else value if isinstance(value, tuple) else [value]
        written += ["--" + name.replace("_", "-"), *(shlex.quote(str(one)) for one in values)]
    return written
