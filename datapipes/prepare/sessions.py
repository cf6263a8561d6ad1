"""Staged rows, sorted, become sessions: checked as a whole, cut at gaps, filtered."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datapipes.errors import UserError
from datapipes.prepare.config import PrepareConfig
from datapipes.prepare.faults import DISORDERED, REPEATED, SESSION_FAULTS, TWO_FILES, order_error, row_faults
from datapipes.prepare.sources import CONTEXT, Source
from datapipes.prepare.staging import quoted
from datapipes.progress import stage

BATCH = 1 << 20
MOST_PLAYS = 1_000_000


def group_sessions(
    engine: duckdb.DuckDBPyConnection, sources: list[Source], config: PrepareConfig, scratch: Path
) -> Counter:
    """Writes `scratch/sessions.parquet`, ordered by a hash of the session id; returns the sessions dropped by reason.

    Tracks are still provisional codes there. A session over 1,000,000 plays is refused: the column is the wrong one.
    """
    rows = f"'{quoted(scratch)}/rows-*.parquet'"
    total = engine.execute(f"SELECT count(*) FROM {rows} WHERE NOT missing(session)").fetchall()[0][0]
    context = [role for role in CONTEXT if role in sources[0].roles]
    place = "place, " if config.sorts else ""
    reader = engine.sql(
        f"""
        SELECT session, file, row, place, strength, fault, coalesce(code, 0)::INTEGER AS code
            {"".join(f", {name}" for name in context)}
        FROM (SELECT md5_number_upper(session) AS key, * FROM {rows} WHERE NOT missing(session))
        LEFT JOIN codes USING (track)
        ORDER BY key, session, {place} file, row"""
    ).to_arrow_reader(BATCH)
    dropped: Counter = Counter()
    writer = None
    with stage("grouping", total, "rows") as advance:
        try:
            for block in whole_sessions(reader, config):
                sessions = build_sessions(block, sources, context, config, dropped)
                writer = writer or pq.ParquetWriter(scratch / "sessions.parquet", sessions.schema, compression="lz4")
                if len(sessions):
                    writer.write_table(sessions)
                advance(len(block))
        finally:
            if writer:
                writer.close()
    return dropped


def whole_sessions(reader: pa.RecordBatchReader, config: PrepareConfig) -> Iterator[pa.Table]:
    """Cuts a stream of sorted rows between sessions; the order of the rows is left alone."""
    rest = reader.schema.empty_table()
    for batch in reader:
        table = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        last = starts_of(table)[-1]
        if last:
            yield table.slice(0, last)
        rest = table.slice(last)
        if len(rest) > MOST_PLAYS:
            raise UserError(
                f"session '{rest['session'][0].as_py()[:40]}' has more than {MOST_PLAYS:,} plays: check that "
                f"--session {config.session} is the column of the session"
            )
    if len(rest):
        yield rest


def starts_of(table: pa.Table) -> np.ndarray:
    """Where each session starts."""
    session = table["session"].combine_chunks()
    changes = pc.not_equal(session.slice(1), session.slice(0, len(session) - 1))
    return np.concatenate([[0], np.flatnonzero(changes.to_numpy(zero_copy_only=False)) + 1])


def build_sessions(
    block: pa.Table, sources: list[Source], context: list[str], config: PrepareConfig, dropped: Counter
) -> pa.Table:
    """Turns the rows of whole sessions into one row a session, and counts what it drops in `dropped`."""
    starts = starts_of(block)
    faults = session_faults(block, starts, sources, config)
    reasons = {code: fault.reason for code, fault in enumerate(row_faults(sources[0].roles, config), 1)}
    for code, count in zip(*np.unique(faults[faults > 0], return_counts=True), strict=True):
        dropped[{**reasons, **SESSION_FAULTS}[int(code)]] += int(count)
    lengths = np.diff(np.append(starts, len(block)))
    if faults.any():
        block = block.filter(pa.array(np.repeat(faults == 0, lengths)))
        starts = starts_of(block) if len(block) else np.zeros(0, dtype=np.int64)
    names, starts = cut_at_gaps(block, starts, config.gap_seconds)
    lengths = np.diff(np.append(starts, len(block)))
    kept = filter_sessions(block, starts, lengths, config, dropped)
    row_kept = np.repeat(kept, lengths)
    if config.keep_last is not None:
        ends = np.repeat(starts + lengths, lengths)
        row_kept &= ends - np.arange(len(block)) <= config.keep_last
        lengths = np.minimum(lengths, config.keep_last)
    block = block.filter(pa.array(row_kept))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths[kept])]), pa.int32())

    def lists(name: str) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, block[name].combine_chunks())

    columns = {"session_id": names.filter(pa.array(kept)), "tracks": lists("code"), "skips": lists("strength")}
    return pa.table({**columns, **{name: lists(name) for name in context}})


def session_faults(block: pa.Table, starts: np.ndarray, sources: list[Source], config: PrepareConfig) -> np.ndarray:
    """The fault code of each session, 0 for a good one; raises for the first where bad rows stop the run."""
    faults = block["fault"].to_numpy().copy()
    if not config.sorts:
        file, place = block["file"].to_numpy(), block["place"].to_numpy()
        later = np.ones(len(block), dtype=bool)
        later[starts] = False
        later[1:] &= (faults[1:] == 0) & (faults[:-1] == 0)
        before = np.flatnonzero(later) - 1
        here = before + 1
        moved = file[here] != file[before]
        faults[here[moved]] = TWO_FILES
        if "order" in sources[0].roles:
            faults[here[~moved & (place[here] < place[before])]] = DISORDERED
            faults[here[~moved & (place[here] == place[before])]] = REPEATED
    if config.on_error == "stop" and faults.any():
        raise session_error(block, int(np.flatnonzero(faults)[0]), int(faults[faults > 0][0]), sources, config)
    return np.where(np.add.reduceat(faults, starts, dtype=np.int64) > 0, first_fault(faults, starts), 0)


def first_fault(faults: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The lowest fault code among the bad rows of each session."""
    return np.minimum.reduceat(np.where(faults == 0, np.iinfo(faults.dtype).max, faults), starts)


def session_error(block: pa.Table, at: int, code: int, sources: list[Source], config: PrepareConfig) -> UserError:
    """The sentence for a session that is bad as a whole."""
    now, before = block.slice(at, 1).to_pylist()[0], block.slice(at - 1, 1).to_pylist()[0]
    source, other = sources[now["file"]], sources[before["file"]]
    if code == TWO_FILES:
        return UserError(
            f"session '{now['session'][:40]}' is in {other.path} and in {source.path}: expected each session in one "
            f"file; join them by order with --sort, or drop the session with --on-error skip"
        )
    return order_error(source, now["row"], before["row"], code, config)


def cut_at_gaps(block: pa.Table, starts: np.ndarray, gap: float | None) -> tuple[pa.Array, np.ndarray]:
    """Session ids and starts; with a gap in seconds, sessions are cut there and numbered from 1 as `id#number`."""
    session = block["session"].combine_chunks()
    if gap is None:
        return session.take(pa.array(starts)), starts
    jumps = np.flatnonzero(np.diff(block["place"].to_numpy()) > gap) + 1
    pieces = np.union1d(starts, jumps)
    owner = np.searchsorted(starts, pieces, side="right") - 1
    number = np.arange(len(pieces)) - np.searchsorted(pieces, starts)[owner] + 1
    numbers = pa.array(number).cast(pa.string())
    return pc.binary_join_element_wise(session.take(pa.array(pieces)), numbers, "#"), pieces


def filter_sessions(
    block: pa.Table, starts: np.ndarray, lengths: np.ndarray, config: PrepareConfig, dropped: Counter
) -> np.ndarray:
    """Which sessions pass the filters, each of which counts what it drops and sees only what passed before."""
    kept = np.ones(len(starts), dtype=bool)
    tests = [(f"shorter than {config.min_length}", lengths >= config.min_length)]
    if config.drop_longer is not None:
        tests.append((f"longer than {config.drop_longer}", lengths <= config.drop_longer))
    if config.require_skip and len(starts):
        strength = block["strength"].to_numpy()
        skips = np.add.reduceat(((strength == 1) | (strength == 2)).astype(np.int64), starts)
        tests.append(("without a skip", skips > 0))
    for reason, passes in tests:
        if out := int(np.count_nonzero(kept & ~passes)):
            dropped[reason] += out
        kept &= passes
    return kept
