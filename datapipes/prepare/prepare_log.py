"""`prepare`, from raw logs to a dataset directory."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.common.machine import available_memory, process_memory
from skipwise.common.mirrors import local
from skipwise.common.out_of_memory import is_out_of_memory
from skipwise.common.outputs import atomic_output
from skipwise.common.stores import Place
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.manifest import MANIFEST, Manifest
from skipwise.datapipes.prepare.column_roles import FLAGS
from skipwise.datapipes.prepare.config import LEAST_MEMORY, PrepareConfig
from skipwise.datapipes.prepare.feature_table import note_tracks, read_table
from skipwise.datapipes.prepare.given_vocabulary import given_vocabulary
from skipwise.datapipes.prepare.named_source import with_source
from skipwise.datapipes.prepare.plausible import odd_ids
from skipwise.datapipes.prepare.publish import publish
from skipwise.datapipes.prepare.sessionize import REPEATED_PLAYS, group_sessions
from skipwise.datapipes.prepare.skip_options import SKIPS
from skipwise.datapipes.prepare.skip_rules import doubts
from skipwise.datapipes.prepare.sources import find_sources
from skipwise.datapipes.prepare.staging import (
    connect,
    count_rows_without_session,
    number_texts,
    stage_rows,
    staged_rows,
)
from skipwise.datapipes.prepare.track_names import name_tracks
from skipwise.datapipes.prepare.write_features import write_features

_BESIDE = 2_200_000_000
"""Bytes of address space beside `--memory`, most of them reserved for threads and never touched."""
STOPPED = "stopped before the dataset was whole: nothing was written"


def prepare(config: PrepareConfig) -> Manifest:
    """Writes the dataset directory `config.output` and returns its manifest.

    Raises `UserError` for bad input, an output that exists, or too little memory or disk; nothing is written then.
    """
    _check_room(config)
    if config.tracks:
        config = replace(config, tracks=local(config.tracks))
    if config.track_features:
        config = replace(config, track_features=local(config.track_features))
    try:
        with atomic_output(config.output, config.overwrite, is_dataset) as scratch:
            scratch = scratch.absolute()  # DuckDB would take "~" at its beginning for the home directory
            parquet(scratch)  # raises for a path that cannot be read back, before the log is read
            known = given_vocabulary(config.vocabulary) if config.vocabulary else None
            config, patterns, missed = with_source(config)
            sources = find_sources(config, patterns, missed)
            roles = sources[0].roles
            if "order" not in roles and (config.in_time_unit or config.drop_duplicate_plays):
                raise UserError(
                    f"{sources[0].path} has no column of times or places, which --split time, --gap "
                    f"and --drop-duplicate-plays need: leave them out"
                )
            if not roles.keys() & {*SKIPS, *FLAGS}:
                note(
                    "no column says what was skipped: every play counts as kept, unless --skip, --kept, --rating, "
                    "--reason or --played names one"
                )
            with connect(config, scratch) as engine:
                left_out = Counter[str]()
                places = stage_rows(engine, sources, config, scratch, left_out)
                if backwards := [sources[number].path.name for number in sorted(places.newest_first)]:
                    note(
                        f"{', '.join(backwards[:3])}{' ...' if backwards[3:] else ''} "
                        f"run{'s' * (len(backwards) == 1)} from new to old: of plays of the same {roles['order']}, "
                        f"the last row was played first"
                    )
                if pair := places.coarser():
                    minutes, seconds = (sources[number].path.name for number in pair)
                    note(
                        f"warning: {minutes} has times to the minute and {seconds} more exact ones, of the same days: "
                        f"a play that both have counts twice, so leave one of them out of --input if they are of one "
                        f"listener"
                    )
                dropped_rows = +left_out + count_rows_without_session(engine, scratch)
                features = read_table(engine, config)
                number_texts(engine, scratch, roles, known, bool(features))
                note_tracks(engine, config, staged_rows(scratch))
                for warning in odd_ids(engine, roles):
                    note(f"warning: {warning}")
                names = name_tracks(engine, config, scratch)
                dropped_sessions, rows_found = group_sessions(engine, sources, config, scratch, places)
                if not config.drop_duplicate_plays and (again := rows_found.pop(REPEATED_PLAYS, 0)):
                    near = places.unit(config) is not None
                    when = f"{roles['order']} equal to the second" if near else f"same {roles['order']}"
                    note(
                        f"warning: {again:,} rows repeat a play (same {roles['session']} and {roles['track']}, "
                        f"{when}): leave them out with --drop-duplicate-plays, unless {roles['order']} counts "
                        f"minutes or days, so that they may be plays of their own"
                    )
                manifest = publish(engine, sources, config, scratch, names, dropped_sessions, dropped_rows + rows_found)
                if config.reads_features:
                    manifest = write_features(engine, config, features, scratch / "result", manifest)
    except KeyboardInterrupt:
        raise UserError(STOPPED) from None
    except (duckdb.Error, OSError, RuntimeError) as error:
        if is_interruption(error):
            raise UserError(STOPPED) from None
        if isinstance(error, duckdb.OutOfMemoryException):
            raise UserError(_out_of_memory(config, str(error))) from None
        if isinstance(error, RuntimeError) or is_out_of_memory(error):
            raise
        raise UserError(f"{config.output} could not be written ({gist(error)}): check the disk") from None
    if roles.keys() & {*SKIPS, *FLAGS}:
        note(f"{manifest.counts['plays']:,} plays, {manifest.skips()}")
    if doubt := doubts(manifest, roles):
        note(doubt)
    note(f"wrote {Place.of(config.output) or config.output}: {manifest.summary()}")
    return manifest


def _check_room(config: PrepareConfig) -> None:
    """Raises `UserError` where a limit of this process is below what DuckDB may take: it would end by a signal."""
    room, wanted = process_memory(), config.memory * 2**30 + _BESIDE
    if room is not None and room < wanted:
        lower = f"lower --memory {config.memory:g} (GiB), or " if room > LEAST_MEMORY * 2**30 + _BESIDE else ""
        raise UserError(
            f"the limit of this process (ulimit -v or -d) leaves {room / 1e9:.1f} GB of {wanted / 1e9:.1f} GB that are "
            f"needed: {lower}raise the limit"
        )


def _out_of_memory(config: PrepareConfig, said: str) -> str:
    """DuckDB says how much of its own limit is used where that was too low."""
    if "used)" in said:
        return f"--memory {config.memory:g} (GiB) does not suffice for this log: raise it"
    free = available_memory()
    left = "" if free is None else f", of which {free / 1e9:.1f} GB are free now"
    return (
        f"the system gave no more memory{left}: lower --memory {config.memory:g} (GiB), beyond which sorting spills to "
        "disk, or --threads, or use a machine with more"
    )


def is_dataset(path: Path) -> bool:
    """Whether a directory is a dataset, which `prepare` may replace."""
    return (path / MANIFEST).is_file()


def is_interruption(error: BaseException | None) -> bool:
    """Whether ctrl-C caused an error: DuckDB turns it into one of several errors of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or re.search("interrupt", str(error), re.IGNORECASE):
            return True
        error = error.__context__
    return False


def gist(error: Exception) -> str:
    """Returns a library's error in one line, without the scratch directory that its files are in."""
    return re.sub(r"[^\s\"']*\.partial/", "", " ".join(str(error).split()))[:200]
