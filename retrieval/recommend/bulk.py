"""Recommendations for a file of sessions, chunk by chunk: neither file has to fit in memory."""

import time
from collections.abc import Iterator
from pathlib import Path

from skipwise.common.console import note, stage
from skipwise.common.errors import UserError, brief
from skipwise.common.mirrors import local
from skipwise.common.outputs import atomic_output
from skipwise.common.tables import open_table, table_writer
from skipwise.datapipes.session_files import DAMAGED
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendConfig, Unknown
from skipwise.retrieval.recommend.session_columns import SessionColumns, Sessions
from skipwise.retrieval.recommend.track_recommender import TrackRecommender

_CHUNK_SESSIONS = 1 << 14
"""Large, so that `TrackIds.rows` looks many tracks up together."""
_CHUNK_ANSWERS = 1 << 21
"""Tracks recommended in a chunk at most, 24 MiB with their scores, where K allows."""


class SessionFile:
    """A Parquet file of sessions. Raises `UserError` for any other."""

    def __init__(self, path: Path, opened: OpenExport, names: bool = False):
        """`opened` has the tracks that the file may name, and decides which strengths count as skipped.

        `names`: see `SessionColumns`.
        """
        self.path = path
        try:
            with open_table(path) as table:
                schema, self.num_sessions = table.schema, table.metadata.num_rows
        except DAMAGED as error:
            raise UserError(f"{path} cannot be read ({brief(error)}): expected a Parquet file of sessions") from error
        self.columns = SessionColumns(str(path), schema, opened, names)

    def sessions(self, size: int, unknown: Unknown) -> Iterator[Sessions]:
        """All sessions, at most `size` at a time."""
        first = 0
        try:
            with open_table(self.path) as table:
                batches = table.batches(size, self.columns.names)
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
    source = SessionFile(local(config.input), recommender.opened, config.names)
    size = max(1, min(_CHUNK_SESSIONS, _CHUNK_ANSWERS // config.k))
    num_unknown = num_empty = 0
    with atomic_output(config.output, config.overwrite, _is_ours) as scratch:
        try:
            with (
                table_writer(scratch / "result", source.columns.ranked) as writer,
                stage("recommending", source.num_sessions, "sessions") as advance,
            ):
                for sessions in source.sessions(size, config.unknown):
                    writer.write_batch(recommender.rank(sessions, config, config.batch, config.names))
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
        with open_table(file) as table:
            return {"tracks", "scores"} <= set(table.schema.names)
    except DAMAGED:
        return False
