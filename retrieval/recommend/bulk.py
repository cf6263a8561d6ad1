"""Recommendations for a file of sessions, chunk by chunk: neither file has to fit in memory."""

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from skipwise.common.console import note, stage
from skipwise.common.errors import UserError, brief
from skipwise.common.files import require_regular_file
from skipwise.common.outputs import atomic_output
from skipwise.datapipes.session_files import DAMAGED
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendConfig, Unknown
from skipwise.retrieval.recommend.session_columns import SessionColumns, Sessions
from skipwise.retrieval.recommend.track_recommender import TrackRecommender

_CHUNK_SESSIONS = 1 << 14
"""Large, so that the pass over all track ids that `TrackIds.rows` makes is shared by many sessions."""
_CHUNK_ANSWERS = 1 << 21
"""Tracks recommended in a chunk at most, 24 MiB with their scores, where K allows."""


class SessionFile:
    """A Parquet file of sessions. Raises `UserError` for any other."""

    def __init__(self, path: Path, opened: OpenExport):
        """`opened` has the tracks that the file may name, and decides which strengths count as skipped."""
        self.path = path
        try:
            require_regular_file(path)
            with pq.ParquetFile(path) as parquet:
                schema, self.num_sessions = parquet.schema_arrow, parquet.metadata.num_rows
        except DAMAGED as error:
            raise UserError(f"{path} cannot be read ({brief(error)}): expected a Parquet file of sessions") from error
        self.columns = SessionColumns(str(path), schema, opened)

    def sessions(self, size: int, unknown: Unknown) -> Iterator[Sessions]:
        """All sessions, at most `size` at a time."""
        first = 0
        try:
            with pq.ParquetFile(self.path) as parquet:
                batches = parquet.iter_batches(size, columns=self.columns.names, use_threads=False)
                for sessions in self.columns.read(batches, unknown):
                    yield sessions
                    first += len(sessions.lengths_S)
        except DAMAGED as error:
            raise UserError(
                f"{self.path} from row {first} on cannot be read ({brief(error)}): write it again"
            ) from error
        if first != self.num_sessions:  # Arrow may end a damaged row group early without an error
            raise UserError(f"{self.path} gives {first} of its {self.num_sessions} rows: copy or write it again")


def recommend_file(config: RecommendConfig, recommender: TrackRecommender) -> None:
    """Writes `config.output`, whole or not at all; raises `UserError` that names the file, the row and the field."""
    assert config.input is not None and config.output is not None
    start = time.perf_counter()
    source = SessionFile(config.input, recommender.opened)
    size = max(1, min(_CHUNK_SESSIONS, _CHUNK_ANSWERS // config.k))
    num_unknown = num_empty = 0
    with atomic_output(config.output, config.overwrite, _is_ours) as scratch:
        try:
            with (
                pq.ParquetWriter(scratch / "result", source.columns.ranked) as writer,
                stage("recommending", source.num_sessions, "sessions") as advance,
            ):
                for sessions in source.sessions(size, config.unknown):
                    writer.write_batch(recommender.rank(sessions, config, config.batch))
                    num_unknown += sessions.num_unknown
                    num_empty += int((sessions.lengths_S == 0).sum())
                    advance(len(sessions.lengths_S))
        except OSError as error:
            raise UserError(
                f"{config.output} cannot be written ({error.strerror or error}): free some space"
            ) from error
    seconds, count = time.perf_counter() - start, source.num_sessions
    note(f"{config.output}: {count:,} sessions in {seconds:.1f} s, {count / seconds:,.0f} sessions/s")
    if num_unknown:
        note(f"left out {num_unknown:,} unknown tracks; {num_empty:,} sessions hold no other, and have an empty list")


def _is_ours(file: Path) -> bool:
    """Whether this command may have written `file`, so that --overwrite may replace it."""
    try:
        require_regular_file(file)
        return {"tracks", "scores"} <= set(pq.read_schema(file).names)
    except DAMAGED:
        return False
