"""The session files of one split of a dataset directory."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from skipwise.common.tables import table_writer
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.manifest import SESSIONS_PER_ROW_GROUP
from skipwise.datapipes.session_files import PROFILE, Lists, Rows, Words, checksum
from skipwise.datapipes.signals import UNKNOWN
from skipwise.datapipes.view import counts_as_skipped

SESSIONS_PER_PART = 64 * SESSIONS_PER_ROW_GROUP


class SplitFiles:
    """Writes sessions to `folder/SPLIT-*.parquet`, and counts what they hold."""

    def __init__(self, folder: Path, split: str, num_tracks: int, contexts: list[str]):
        """`contexts`: the columns beside `session_id`, `tracks`, `skips` and perhaps profiles."""
        self.folder, self.split = folder, split
        self.heard_U = np.zeros(num_tracks, dtype=bool)
        self.values: dict[str, set[str]] = {name: set() for name in contexts}
        """What its training plays say in each context column."""
        self.context_checksums: dict[str, dict[str, list[str]]] = {}
        self.profile_checksums: dict[str, list[str]] = {}
        self.parts: dict[str, int] = {}
        self.checksums: dict[str, list[str]] = {}
        self.lengths: set[int] = set()
        self.plays = self.skipped = self.unknown = 0
        self._waiting: list[pa.Table] = []
        self._writing = ExitStack()
        self._write: Callable[[pa.Table], object] = lambda group: None

    def add(self, sessions: pa.Table) -> None:
        """Writes sessions behind those before; row groups are full but for the last, see `close`."""
        self._waiting.append(sessions)
        while sum(map(len, self._waiting)) >= SESSIONS_PER_ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        """Writes the last sessions."""
        if any(map(len, self._waiting)):
            self._write_group()
        self._writing.close()

    def _write_group(self) -> None:
        waiting = pa.concat_tables(self._waiting)
        self._waiting = [waiting.slice(SESSIONS_PER_ROW_GROUP)]
        group = waiting.slice(0, SESSIONS_PER_ROW_GROUP).combine_chunks()
        name = next(reversed(self.parts), "")
        if not name or self.parts[name] >= SESSIONS_PER_PART:
            self._writing.close()
            name = f"{self.split}-{len(self.parts):05}.parquet"
            self.parts[name], self.checksums[name] = 0, []
            if self.values:
                self.context_checksums[name] = {column: [] for column in self.values}
            writing = table_writer(self.folder / name, group.schema, compression="zstd")
            self._write = self._writing.enter_context(writing).write_table
        self._write(group)
        self.parts[name] += len(group)
        tracks, strengths = (group[column].combine_chunks() for column in ("tracks", "skips"))
        flat = (tracks.value_lengths(), tracks.flatten(), strengths.flatten())
        rows = Rows(*(values.to_numpy() for values in flat))
        self.checksums[name].append(checksum(rows))
        self.lengths.update(rows.lengths.tolist())
        self.plays += len(rows.skips)
        self.skipped += int(np.count_nonzero(counts_as_skipped(rows.skips)))
        self.unknown += int(np.count_nonzero(rows.skips == UNKNOWN))
        self.heard_U[rows.tracks] = True
        self._add_contexts(group, rows.lengths, name)
        if PROFILE in group.column_names:
            self.profile_checksums.setdefault(name, []).append(checksum(Lists.of(group[PROFILE].combine_chunks())))

    def _add_contexts(self, group: pa.Table, lengths: np.ndarray, part: str) -> None:
        """Adds the checksums of a row group's context columns, and the values that training sees."""
        left_P = np.repeat(lengths.cumsum(), lengths) - np.arange(lengths.sum())
        held_out_P = left_P <= {"part": HELD_OUT["validation"], "train": 0}.get(self.split, np.inf)
        for column, values in self.values.items():
            words = Words.of(group[column].combine_chunks().flatten())
            self.context_checksums[part][column].append(words.checksum)
            size = len(words.words) + 1
            heard = np.bincount(words.place_P + 1, minlength=size)
            heard -= np.bincount(words.place_P[held_out_P] + 1, minlength=size)
            values.update(words.words[place] for place in np.flatnonzero(heard[1:]))
