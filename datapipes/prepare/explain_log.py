"""`prepare --explain`: the command line that a log seems to need, what its columns are, and its first sessions."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.common.stores import Place
from skipwise.common.tables import read_table, write_table
from skipwise.datapipes.manifest import SESSIONS, VOCABULARY
from skipwise.datapipes.prepare.config import FILE_ORDER, NULLS, PrepareConfig
from skipwise.datapipes.prepare.guess_options import (
    alternatives,
    guess_columns,
    guess_headless,
    guess_rules,
    has_no_header,
    names_of,
)
from skipwise.datapipes.prepare.known_sources import SOURCES
from skipwise.datapipes.prepare.log_files import LogFile, fetched, logs_of
from skipwise.datapipes.prepare.log_source import Source, brief_list
from skipwise.datapipes.prepare.named_source import arguments, is_given, options_of, recognised, replaced
from skipwise.datapipes.prepare.prepare_log import prepare
from skipwise.datapipes.prepare.read_rows import read
from skipwise.datapipes.prepare.row_condition import condition_of, met, types_of
from skipwise.datapipes.prepare.sources import inspect
from skipwise.datapipes.view import counts_as_skipped

ROWS = 10_000
"""Rows of the log that the first sessions are made of."""
SHOWN = 3
TRACKS = 6


def explain(config: PrepareConfig) -> Iterator[str]:
    """Yields lines: the command, the columns with their first values, the first sessions. Writes nothing.

    `config` has the path in `explain`, and options that are kept. Raises `UserError` where no column seems to be the
    track, or a given option does not go with the others.
    """
    assert config.explain is not None
    named_paths = config.explain if isinstance(config.explain, tuple) else (config.explain,)
    paths = tuple(map(fetched, named_paths))
    forms = [known for known in SOURCES if known.columns or known.files != ("*",)]
    plain = PrepareConfig(input=paths, output=Path("data"))
    given = {one.name: getattr(config, one.name) for one in fields(config) if is_given(config, one.name)}
    given = {name: value for name, value in given.items() if name not in ("input", "output", "explain", "overwrite")}
    reading = replace(plain, **{name: given[name] for name in ("columns", "delimiter", "user") if name in given})
    logs = logs_of(paths)
    source, known = recognised(logs, forms, reading)
    log = next(log for log in logs if log.path == source.path)
    if known is not None:
        ways = [options_of(known, source, config)]
    else:
        ways = [{}] if source.roles else [*alternatives(guess(source, reading, given), given)]
    trials: list[Trial] = []
    for options in ways:
        trials.append(try_options(log, options, plain, given))
        if trials[-1].works:
            break
    options, source, batch, shown, _ = next((trial for trial in trials if trial.works), trials[0])
    said = options if known is None else {"source": known.name} if known.options else {}
    said_paths = tuple(Place.of(path) or path for path in named_paths)
    command = ["skipwise", "prepare", *arguments({"input": said_paths, "output": "data"})]
    yield " ".join([*command, *arguments({**said, **given})])
    if known is not None and known.options:
        yield f"--source {known.name} stands for {' '.join(arguments(options))}"
    yield f"columns of {log.path}:"
    width = max(map(len, source.roles))
    for role, name in source.roles.items():
        values = [value for value in batch[role].slice(0, 100).to_pylist() if value][:3]
        yield f"  {role:{width}}  {name}: {', '.join(values) or 'empty in the first rows'}"
    if unused := [name for name in source.names if name and name not in source.read_names]:
        yield f"  not read: {', '.join(unused)}"[:500]
    yield from shown


class Trial(NamedTuple):
    """What comes of options on the first rows."""

    options: dict[str, Any]
    source: Source
    batch: pa.RecordBatch
    shown: list[str]
    """The first sessions, or why there are none."""
    works: bool


def try_options(log: LogFile, options: dict[str, Any], plain: PrepareConfig, given: dict[str, Any]) -> Trial:
    """Prepares the first rows with these options under those that are given."""
    config = replaced(plain, {**options, **given})
    source = inspect(log, config)
    batch = first_rows(source, config)
    try:
        return Trial(options, source, batch, [*first_sessions(source, batch, config)], True)
    except UserError as error:
        return Trial(options, source, batch, [f"its first {len(batch):,} rows cannot be prepared so: {error}"], False)


def guess(source: Source, plain: PrepareConfig, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that seem to read a source; raises `UserError` where no column seems to be the track."""
    options: dict[str, Any] = {}
    if has_no_header(source) and not plain.columns:
        numbered = tuple(f"column {number}" for number in range(len(source.names)))
        layout = replace(source.layout, first=source.layout.first - 1)
        source = replace(source, names=numbered, roles=dict(zip(numbered, numbered, strict=True)), layout=layout)
        rows = first_rows(source, plain).slice(0, 100)
        options["columns"] = guess_headless([rows[name].to_pylist() for name in numbered])
        source = replace(source, names=options["columns"], roles={})
    columns = guess_columns(names_of(source))
    columns |= {name: value for name, value in given.items() if name in ("session", "track", "order")}
    if plain.user is not None:
        columns.pop("session", None)
    if "track" not in columns:
        raise UserError(
            f"no column of {source.path} seems to be the track (its columns are {brief_list(source.names)}): "
            f"name it with --track, and with --session and --order what else there is"
        )
    track = columns["track"] if isinstance(columns["track"], str) else columns["track"][-1]
    known = {*source.names, *source.fixed}
    roles = {role: name for role, name in {"track": track, "order": columns.get("order")}.items() if name in known}
    if "track" not in roles:
        return options | columns
    rows = first_rows(replace(source, roles=roles), plain)
    return options | columns | guess_rules(columns, rows, replace(plain, time_format=given.get("time_format")))


def first_rows(source: Source, config: PrepareConfig) -> pa.RecordBatch:
    """Returns the first rows of a source."""
    return next(read(source, lambda size: None, config.null or NULLS)).slice(0, ROWS)


def first_sessions(source: Source, batch: pa.RecordBatch, config: PrepareConfig) -> Iterator[str]:
    """Yields what `prepare` says of these rows, and their first sessions."""
    path, table = source.path, pa.Table.from_batches([batch])
    if config.where is not None:
        condition = condition_of(config.where)
        types = types_of(condition, source.leaves if source.format == "parquet" else {}, batch)
        with duckdb.connect() as engine:
            engine.register("incoming", table)
            table = engine.sql(f"FROM {met(condition, types)}").to_arrow_table().drop_columns([*condition.columns])
        if not len(table):
            raise UserError("--where leaves out all of them")
    table = table.drop_columns(["row", "mark"])
    named = {role: role for role in table.column_names if role in vars(config) and role not in ("user", "where")}
    named.setdefault("order", FILE_ORDER)
    with tempfile.TemporaryDirectory() as folder:
        rows, data, said = Path(folder) / "rows.parquet", Path(folder) / "data", io.StringIO()
        write_table(table, rows)
        nothing = {"user": None, "columns": (), "delimiter": None, "context": (), "keep_track": (), "where": None}
        if config.tracks:  # which names its tracks by the log's own column
            nothing |= {"tracks": None, "tracks_columns": (), "title": None, "artist": None}
        try:
            with contextlib.redirect_stderr(said):
                prepare(replace(config, **{**nothing, **named, "input": (rows,), "output": data}))
        except UserError as error:
            raise UserError(str(error).replace(str(rows), str(path))) from None
        ours = ("reading:", "grouping:", "writing:", "wrote ", "naming:")
        lines = said.getvalue().replace(rows.name, path.name).splitlines()
        yield from (line for line in lines if not line.startswith(ours))
        tracks = read_table(data / VOCABULARY)["track_id"].to_pylist()
        parts = sorted((data / SESSIONS).iterdir())
        yield f"first sessions of its first {len(table):,} rows:"
        for session in read_table(parts[0]).slice(0, SHOWN).to_pylist():
            skipped = counts_as_skipped(pa.array(session["skips"], pa.int8()).to_numpy())
            plays = [
                tracks[row] + (" (skipped)" if out else "") for row, out in zip(session["tracks"], skipped, strict=True)
            ]
            more = f", and {len(plays) - TRACKS:,} more" if len(plays) > TRACKS else ""
            yield f"  {session['session_id']}: {', '.join(plays[:TRACKS])}{more}"
