"""Sorts the staged rows into sessions, checks them as a whole, cuts them at gaps and filters them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.common.behind import behind
from skipwise.common.console import stage
from skipwise.common.errors import UserError
from skipwise.common.tables import table_writer
from skipwise.datapipes.prepare.bad_rows import begins, leave_out, order_faults
from skipwise.datapipes.prepare.column_roles import WORDS, context_names
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.log_places import Places
from skipwise.datapipes.prepare.places import BAD_PLACE, ONE, at_least, distance, exact
from skipwise.datapipes.prepare.plausible import Plausible
from skipwise.datapipes.prepare.play_times import FIRST, TIMES, FirstPlays, pauses, unit_of_times
from skipwise.datapipes.prepare.row_checks import CUT, TWO_FILES, order_error, policies, shown
from skipwise.datapipes.prepare.sources import Log
from skipwise.datapipes.prepare.track_digests import DIGESTS, track_digests, track_hashes
from skipwise.datapipes.signals import PAUSE
from skipwise.datapipes.view import counts_as_skipped

BATCH = 1 << 20
MOST_PLAYS = 1_000_000
ENDED, SPLIT = "ended", "split"
"""The columns of the staged sessions with the time of the last play, as a double in seconds since 1970, and the split
that it decides, where the split is by time."""
REPEATED_PLAYS = "that repeat a play"
UNKNOWN = "track not in the vocabulary"


def group_sessions(
    engine: duckdb.DuckDBPyConnection, rows: str, log: Log, config: PrepareConfig, target: Path, places: Places
) -> tuple[Counter[str], Counter[str], Plausible]:
    """Writes the sessions of `rows` to `target`, ordered by a hash of the session id, after `number_texts`.

    Tracks are codes there, `DIGESTS` tell sessions of the same tracks, and with a split by time there are columns of
    each session's last play and its split; where places are times, there is a column `TIMES`, and `FIRST` is written
    beside. Returns the sessions dropped, by reason, how many rows of the others are of
    an unknown track or repeat a play, and what the warnings need. A session of more than 1,000,000 plays is refused:
    `session` is then the wrong column.
    """
    roles = log[0].roles
    ((total,),) = engine.execute(f"SELECT count(*) FROM {rows}").fetchall()
    reader = sorted_rows(engine, rows, roles, config, places)
    unit = places.unit(config)
    timed = unit_of_times(places, config, roles) is not None
    if config.pause and not timed:
        raise UserError(
            f"--pause needs times, and '{roles.get('order')}' has numbers of no known unit: say it by --time-unit"
        )
    gap = None if unit is None or config.gap_seconds is None else config.gap_seconds / unit
    plausible = Plausible(config, places, roles.get("order"))
    dropped: Counter[str] = Counter()
    rows_found: Counter[str] = Counter()
    lookup = engine.cursor()
    first_plays = FirstPlays(lookup)
    hashes = track_hashes(lookup)
    columns = [*context_names(roles), *[PAUSE] * config.pause, *[TIMES] * timed]
    with stage("grouping", total, "rows") as advance, ExitStack() as closing, behind() as run:
        writer = None
        for block in whole_sessions(reader, config):
            first, last = block["session"][0].as_py(), block["session"][-1].as_py()
            named = lookup.sql(f"SELECT id FROM sessions WHERE code BETWEEN {first} AND {last} ORDER BY code")
            ids = named.to_arrow_table()["id"].combine_chunks()
            advance(len(block))
            block = without_faults(block, log, config, ids, gap, dropped, rows_found)
            block = of_known_tracks(block, dropped, rows_found)
            if timed:
                first_plays.add(block)
            if config.sorts and "order" in roles and (again := repeats_play(block, unit)).any():
                rows_found[REPEATED_PLAYS] += int(np.count_nonzero(again))
                if config.drop_duplicate_plays:
                    block = block.filter(pa.array(~again))
            if config.pause and unit is not None:
                block = block.append_column(PAUSE, pauses(block, unit))
            starts = starts_of(block)
            ids, owners = ids.take(pa.array(block["session"].to_numpy()[starts] - first)), len(starts)
            if gap is not None or CUT in policies(config).values():
                ids, starts = cut(block, ids, starts, gap)
            plausible.add(block, owners, starts, lengths_of(block, starts))
            sessions = sessions_of(block, ids, starts, columns, config, dropped, unit)
            for name, of in zip(DIGESTS, track_digests(sessions["tracks"].combine_chunks(), hashes), strict=True):
                sessions = sessions.append_column(name, of)
            if writer is None:
                writer = closing.enter_context(staged_writer(target, sessions.schema))
            if len(sessions):
                run(writer.write_table, sessions)
    if timed:
        first_plays.write(target.with_name(FIRST))
    return +dropped, rows_found, plausible


def staged_writer(target: Path, schema: pa.Schema) -> AbstractContextManager[Any]:
    """Returns the writer of staged sessions: what differs in each row or play has no dictionary."""
    lists = [f"{field.name}.list.element" for field in schema if pa.types.is_list(field.type)]
    return table_writer(
        target,
        schema,
        compression="lz4",
        use_dictionary=[name for name in lists if not name.startswith(("tracks.", f"{TIMES}."))],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in lists if name.startswith(("tracks.", f"{TIMES}."))},
        write_statistics=False,
    )


def sorted_rows(
    engine: duckdb.DuckDBPyConnection, rows: str, roles: dict[str, str], config: PrepareConfig, places: Places
) -> pa.RecordBatchReader:
    """Returns the rows by the codes of their sessions, and within a session in play order; a track that has no code is
    -1 there, a row without a place has `BAD_PLACE`."""
    context = "".join(
        f", word_code({role}) AS {role}" if role in WORDS else f", {role}" for role in context_names(roles)
    )
    order = places.order() if config.sorts else "file, row"
    fraction = ", fraction" if places.fractions else ""
    return engine.sql(
        f"""
        SELECT sessions.code AS session, file, row, coalesce(place, {BAD_PLACE}) AS place, strength, fault,
            coalesce(tracks.code, -1)::INTEGER AS track{fraction}{context}
        FROM {rows} AS plays
            JOIN sessions ON session = sessions.id LEFT JOIN tracks ON track = tracks.id
        ORDER BY sessions.code, {order}"""
    ).to_arrow_reader(BATCH)


def without_faults(
    block: pa.Table,
    log: Log,
    config: PrepareConfig,
    ids: pa.Array,
    gap: Fraction | None,
    dropped: Counter[str],
    rows_found: Counter[str],
) -> pa.Table:
    """Leaves out bad rows and those out of order, and counts them, or raises the error of the first; `ids`: of the
    block's sessions."""
    counts, first = (gap, dropped, rows_found), block["session"][0].as_py()
    block = leave_out(block, block["fault"].to_numpy(), policies(config), *counts)
    if config.sorts:
        return block
    faults = order_faults(block, "order" in log[0].roles)
    if config.on_error == "stop" and faults.any():
        raise session_error(block, faults, log, ids, first)
    return leave_out(block, faults, policies(config), *counts)


def of_known_tracks(block: pa.Table, dropped: Counter[str], rows_found: Counter[str]) -> pa.Table:
    """Leaves out plays of tracks that are not in the vocabulary, and counts them; no row may be bad, which has no
    track either."""
    known = block["track"].to_numpy() >= 0
    if known.all():
        return block
    some = np.logical_or.reduceat(known, starts_of(block))
    rows_found[UNKNOWN] += int(np.count_nonzero(~known))
    dropped["without a track of the vocabulary"] += int(np.count_nonzero(~some))
    return block.filter(pa.array(known))


def whole_sessions(reader: pa.RecordBatchReader, config: PrepareConfig) -> Iterator[pa.Table]:
    """Cuts a stream of sorted rows between sessions; keeps their order."""
    rest = reader.schema.empty_table()
    for batch in reader:
        table = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        last = starts_of(table)[-1]
        if last:
            yield table.slice(0, last)
        rest = table.slice(last)
        if len(rest) > MOST_PLAYS:
            raise UserError(
                f"a session has more than {MOST_PLAYS:,} plays: expected '{config.session}' to tell sessions apart; "
                f"name another column with --session"
            )
    if len(rest):
        yield rest


def starts_of(block: pa.Table) -> np.ndarray:
    """Returns the index of each session's first row."""
    return np.flatnonzero(np.diff(block["session"].to_numpy(), prepend=-1))


def lengths_of(block: pa.Table, starts: np.ndarray) -> np.ndarray:
    """Returns the number of rows of each session."""
    return np.diff(np.append(starts, len(block)))


def repeats_play(block: pa.Table, unit: Fraction | None) -> np.ndarray:
    """Returns which rows have the session and the track of a row before and the same place, or where places are times
    (`unit`: what they count, in seconds), one less than a second behind; rows are sorted by session and place."""
    session, track = (block[name].to_numpy() for name in ("session", "track"))
    near = Fraction(1, ONE) if unit is None else 1 / unit
    tied = np.zeros(len(block), dtype=bool)
    tied[1:] = (session[1:] == session[:-1]) & ~at_least(distance(block, slice(None, -1), slice(1, None)), near)
    group = np.cumsum(~tied)
    rows = np.flatnonzero(tied | np.append(tied[1:], False))
    order = rows[np.lexsort((track[rows], group[rows]))]  # is stable: of equal rows the first in the log comes first
    again = np.zeros(len(block), dtype=bool)
    same = (group[order[1:]] == group[order[:-1]]) & (track[order[1:]] == track[order[:-1]])
    again[order[1:]] = same & ~at_least(distance(block, order[:-1], order[1:]), near)
    return again


def sessions_of(
    block: pa.Table,
    ids: pa.Array,
    starts: np.ndarray,
    columns: list[str],
    config: PrepareConfig,
    dropped: Counter[str],
    unit: Fraction | None,
) -> pa.Table:
    """Returns the sessions that pass the filters, a row each, with tracks as codes; counts the others in `dropped`.

    `columns`: those of plays beside tracks and skips.
    """
    lengths = lengths_of(block, starts)
    kept = passing(block, starts, lengths, config, dropped)
    times = {}
    if config.split == "time" and unit is not None:
        last = exact(block.filter(pa.array(np.isin(np.arange(len(block)), starts + lengths - 1))))
        late = [at_least(last, config.starts[split] / unit) for split in ("test", "validation")]
        split = np.select(late, ["test", "validation"], "train")
        times = {ENDED: pa.array((last[0] * float(unit))[kept]), SPLIT: pa.array(split[kept], pa.string())}
    rows_kept = np.repeat(kept, lengths)
    if config.max_length is not None:
        rows_kept &= np.repeat(starts + lengths, lengths) - np.arange(len(block)) <= config.max_length
        lengths = np.minimum(lengths, config.max_length)
    block = block.filter(pa.array(rows_kept)).rename_columns({"track": "tracks", "strength": "skips", "place": TIMES})
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths[kept])]), pa.int32())
    names = ["tracks", "skips", *columns]
    lists = {name: pa.ListArray.from_arrays(offsets, block[name].combine_chunks()) for name in names}
    return pa.table({"session_id": ids.filter(pa.array(kept)), **lists, **times})


def cut(block: pa.Table, ids: pa.Array, starts: np.ndarray, gap: Fraction | None) -> tuple[pa.Array, np.ndarray]:
    """Returns ids and starts of sessions cut where the place jumps by more than `gap` and at bad rows; ids are
    `id#number`, from 1."""
    pieces = np.flatnonzero(begins(block, gap))
    owner = np.searchsorted(starts, pieces, side="right") - 1
    number = np.arange(len(pieces)) - np.searchsorted(pieces, starts)[owner] + 1
    return pc.binary_join_element_wise(ids.take(pa.array(owner)), pa.array(number).cast(pa.string()), "#"), pieces


def passing(
    block: pa.Table, starts: np.ndarray, lengths: np.ndarray, config: PrepareConfig, dropped: Counter[str]
) -> np.ndarray:
    """Returns which sessions pass the filters; each filter counts what it drops of what passed before."""
    kept = np.ones(len(starts), dtype=bool)
    tests = [(f"shorter than {config.min_length}", lengths >= config.min_length)]
    if config.drop_longer is not None:
        tests.append((f"longer than {config.drop_longer}", lengths <= config.drop_longer))
    if config.require_skip:
        skipped = np.concatenate([[0], np.cumsum(counts_as_skipped(block["strength"].to_numpy()))])
        tests.append(("without a skip", skipped[starts + lengths] > skipped[starts]))
    for reason, passes in tests:
        if out := int(np.count_nonzero(kept & ~passes)):
            dropped[reason] += out
        kept &= passes
    return kept


def session_error(block: pa.Table, faults: np.ndarray, log: Log, ids: pa.Array, first: int) -> UserError:
    """Returns the error of the first row that does not follow the one before; `ids`: of sessions from code `first`."""
    at = int(np.flatnonzero(faults)[0])
    before, now = block.slice(at - 1, 2).to_pylist()
    source, other = log[now["file"]], log[before["file"]]
    if faults[at] == TWO_FILES:
        session = ids[now["session"] - first].as_py()
        return UserError(
            f"session {shown(session)} is in {other.path} and in {source.path}: expected each session in one "
            f"file; join them by order with --sort, or drop the session with --on-error session"
        )
    return order_error(source, now["row"], before["row"], int(faults[at]))
