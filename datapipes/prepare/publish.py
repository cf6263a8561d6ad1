"""Merges the buckets of a log: chooses and splits their sessions and writes a dataset directory."""

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.behind import behind
from skipwise.common.console import note, stage
from skipwise.common.errors import UserError
from skipwise.common.tables import open_table
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.manifest import SESSIONS, SESSIONS_PER_ROW_GROUP, Manifest
from skipwise.datapipes.prepare.choose_sessions import choose_sessions, splits_of
from skipwise.datapipes.prepare.column_roles import WORDS, context_names
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.feature_table import TABLE, note_tracks, read_table
from skipwise.datapipes.prepare.given_vocabulary import Known
from skipwise.datapipes.prepare.group_shard import IDS, STAGED
from skipwise.datapipes.prepare.merge_tracks import count_plays, merge_tracks, write_vocabulary
from skipwise.datapipes.prepare.plausible import Plausible, id_warnings, odd_ids
from skipwise.datapipes.prepare.play_times import Ages, unit_of_times
from skipwise.datapipes.prepare.profiles import Profiles
from skipwise.datapipes.prepare.row_condition import LEFT_OUT
from skipwise.datapipes.prepare.sessionize import ENDED, REPEATED_PLAYS, SPLIT
from skipwise.datapipes.prepare.shard_records import GroupShard, ReadShard, places_of, total
from skipwise.datapipes.prepare.split_files import SplitFiles
from skipwise.datapipes.prepare.staging import refuse_many_words, versions
from skipwise.datapipes.prepare.track_digests import DIGESTS
from skipwise.datapipes.prepare.track_names import name_tracks
from skipwise.datapipes.prepare.write_features import write_features
from skipwise.datapipes.signals import PAUSE


def publish(
    engine: duckdb.DuckDBPyConnection,
    config: PrepareConfig,
    known: Known | None,
    reads: Sequence[ReadShard],
    groups: dict[Path, GroupShard],
    scratch: Path,
) -> Manifest:
    """Writes the dataset directory `scratch/result` from all shards, those of `groups` by their folders, in order.

    Prints the warnings of the whole log. Raises `UserError` where no session is left, or a split has none.
    """
    roles, result = reads[0].roles, scratch / "result"
    for role in (role for role in WORDS if role in roles):
        refuse_many_words(set[str]().union(*(group.words.get(role, ()) for group in groups.values())), roles[role])
    folders = [folder for folder, group in groups.items() if group.rows]
    features = read_table(engine, config)
    ids = [folder / IDS for folder in folders]
    codes = merge_tracks(engine, ids, known, bool(features), scratch) if folders else []
    if folders:
        note_tracks(engine, config, parquet(*ids))
    names = warn(engine, config, reads, groups, folders, scratch)
    dropped_sessions = total(group.dropped_sessions for group in groups.values())
    dropped_rows = Counter({LEFT_OUT: sum(read.left_out for read in reads)})
    dropped_rows = +dropped_rows + total(group.dropped_rows for group in groups.values())
    if not config.drop_duplicate_plays and (again := dropped_rows.pop(REPEATED_PLAYS, 0)):
        note_repeated(again, roles, near=places_of(reads).unit(config) is not None)
    if not any(group.sessions for group in groups.values()):
        raise no_session_left(dropped_sessions + dropped_rows, config)
    staged = {folder / STAGED: of for folder, of in zip(folders, codes, strict=True) if groups[folder].sessions}
    split_S = choose_sessions(engine, [*staged], config, dropped_sessions)
    (result / SESSIONS).mkdir(parents=True)
    wanted = "true" if known else "plays.count IS NOT NULL"
    if config.track_features:
        wanted += f" OR tracks.id IN (SELECT id FROM {TABLE})"
    rows, vocabulary_hash, named = write_vocabulary(engine, count_plays(engine, staged, split_S), wanted, names, result)
    contexts = context_names(roles) | ({PAUSE: PAUSE} if config.pause else {})
    unit = unit_of_times(places_of(reads), config, roles)
    ages = Ages.of(dict(zip(folders, codes, strict=True)), len(rows), unit) if unit else None
    num_tracks, columns = int(rows.max()) + 1, [*contexts.values()]
    written = {split: SplitFiles(result / SESSIONS, split, num_tracks, columns) for split in splits_of(config)}
    write_sessions(
        staged,
        {folder / STAGED: group.codes() for folder, group in groups.items()},
        rows,
        split_S,
        contexts,
        [*written.values()],
        ages,
        Profiles(config.profile, len(written)) if config.profile else None,
    )
    manifest = Manifest(
        vocabulary_hash=vocabulary_hash,
        track_columns=named,
        sources=reads[0].log,
        options=config.contents() | ({"vocabulary": known.digest} if known else {}),
        dropped_sessions=dict(dropped_sessions),
        dropped_rows=dict(dropped_rows),
        versions={"python": platform.python_version(), **versions()},
        profile=config.profile,
        **session_fields(written, num_tracks, columns),
        **({} if config.split == "last" else split_fields(written)),
    )
    manifest.write(result)
    return write_features(engine, config, features, result, manifest) if config.reads_features else manifest


def no_session_left(dropped: Counter[str], config: PrepareConfig) -> UserError:
    """Returns the error of a log of which the filters leave nothing; `dropped`: sessions and rows by reason."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    other = ", name another --vocabulary" if config.vocabulary else ""
    return UserError(f"no session is left (dropped: {reasons}): loosen the filters{other} or fix the log")


def note_repeated(again: int, roles: dict[str, str], near: bool) -> None:
    """Prints that so many rows repeat a play; `near`: at a time that is equal to the second."""
    when = f"{roles['order']} equal to the second" if near else f"same {roles['order']}"
    note(
        f"warning: {again:,} rows repeat a play (same {roles['session']} and {roles['track']}, {when}): leave "
        f"them out with --drop-duplicate-plays, unless {roles['order']} counts minutes or days, so that they may "
        f"be plays of their own"
    )


def warn(
    engine: duckdb.DuckDBPyConnection,
    config: PrepareConfig,
    reads: Sequence[ReadShard],
    groups: dict[Path, GroupShard],
    folders: list[Path],
    scratch: Path,
) -> dict[str, str]:
    """Prints what the log can hardly mean, and names the tracks; returns what `name_tracks` does."""
    roles, names = reads[0].roles, dict[str, str]()
    ids = {"session": [sum(counts) for counts in zip(*(group.ids for group in groups.values()), strict=True)]}
    if folders:
        ids["track"] = odd_ids(engine, "tracks", "SELECT left(id, -2) FROM tracks WHERE id LIKE '%.0'")
        names = name_tracks(engine, config, folders, scratch)
    plausible = Plausible(config, places_of(reads), roles.get("order"))
    for group in groups.values():
        plausible.take_in(group.seen)
    for warning in (
        *(one for role, counts in ids.items() for one in id_warnings(roles[role], counts)),
        *plausible.warnings(),
    ):
        note(f"warning: {warning}")
    return names


def write_sessions(
    staged: dict[Path, np.ndarray],
    words: dict[Path, list[str]],
    rows: np.ndarray,
    split_S: np.ndarray,
    contexts: dict[str, str],
    written: list[SplitFiles],
    ages: Ages | None,
    profiles: Profiles | None,
) -> None:
    """Writes the staged sessions, each to the split that has it, with rows in place of codes and words in place of
    theirs, and with their `profiles`.

    `staged`: from each bucket's file to the codes of its tracks; `words`: to its words; `rows`: from codes to rows;
    `ages`: for plays with times.
    """
    done = 0
    with stage("writing", int(np.count_nonzero(split_S < len(written))), "sessions") as advance, behind() as run:
        for file, codes in staged.items():
            with open_table(file) as table:
                extra = (ENDED, SPLIT, *DIGESTS)
                schema = pa.schema([column for column in table.schema if column.name not in extra])
                of_words = pa.array(words[file], pa.string())
                meanings = {
                    "tracks": pa.array(rows[codes]),
                    **{name: of_words for name in WORDS if name in schema.names},
                }
                for batch in table.batches(SESSIONS_PER_ROW_GROUP, schema.names):
                    of_split = split_S[done : done + len(batch)]
                    done += len(batch)
                    found = pa.Table.from_batches([batch])
                    sessions = finished(ages.put(found, codes) if ages else found, meanings, contexts)
                    if profiles:
                        sessions = profiles.added(sessions, of_split)
                    for place, files in enumerate(written):
                        mine = of_split == place
                        run(files.add, sessions if mine.all() else sessions.filter(pa.array(mine)))
                        advance(int(np.count_nonzero(mine)))
    for files in written:
        files.close()


def session_fields(written: dict[str, SplitFiles], num_tracks: int, contexts: list[str]) -> dict[str, Any]:
    """Returns the manifest's fields of what the session files hold."""
    files = written.values()
    plays = sum(split.plays for split in files)
    lengths = set().union(*(split.lengths for split in files))
    return {
        "counts": {
            "sessions": sum(sum(split.parts.values()) for split in files),
            "plays": plays,
            "tracks": num_tracks,
        },
        "session_lengths": {"min": min(lengths), "max": max(lengths)},
        "skip_share": round(sum(split.skipped for split in files) / plays, 6),
        "unknown_share": round(sum(split.unknown for split in files) / plays, 6),
        "context_columns": contexts,
        "contexts": {name: sorted(set().union(*(of.values[name] for of in files))) for name in contexts},
        "context_checksums": {part: of for split in files for part, of in split.context_checksums.items()},
        "profile_checksums": {part: of for split in files for part, of in split.profile_checksums.items()},
        "parts": {name: size for split in files for name, size in split.parts.items()},
        "checksums": {name: of for split in files for name, of in split.checksums.items()},
    }


def split_fields(written: dict[str, SplitFiles]) -> dict[str, Any]:
    """Returns the manifest's fields of a dataset that is split by whole sessions."""
    return {
        "split_parts": {split: [*of.parts] for split, of in written.items()},
        "split_counts": {
            split: {
                "sessions": sum(of.parts.values()),
                "plays": of.plays,
                "tracks_not_in_train": int(np.count_nonzero(of.heard_U & ~written["train"].heard_U)),
            }
            for split, of in written.items()
        },
    }


def finished(table: pa.Table, meanings: dict[str, pa.Array], context: dict[str, str]) -> pa.Table:
    """Replaces the codes of tracks by vocabulary rows, and those of context columns by their text and their names."""
    for name, meaning in meanings.items():
        lists = table[name].combine_chunks()
        column = pa.ListArray.from_arrays(lists.offsets, meaning.take(lists.values))
        table = table.set_column(table.column_names.index(name), name, column)
    return table.rename_columns([context.get(name, name) for name in table.column_names])
