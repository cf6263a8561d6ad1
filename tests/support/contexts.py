"""Context columns for dataset directories of tests, by plain loops."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.datapipes.manifest import SESSIONS, Manifest
from skipwise.datapipes.session_files import Words

Column = Callable[[int, int], str | None]
"""What a session's play says, by the session's number in the dataset and its place."""


def add_contexts(data: Path, columns: dict[str, Column], group_size: int = 7) -> dict[str, list[list[str | None]]]:
    """Adds the columns as `prepare` would; returns what each play says, by session."""
    manifest, number = Manifest.read(data), 0
    texts: dict[str, list[list[str | None]]] = {name: [] for name in columns}
    seen: dict[str, set[str]] = {name: set() for name in columns}
    checksums: dict[str, dict[str, list[str]]] = {}
    for part in sorted(manifest.parts):
        table = pq.read_table(data / SESSIONS / part)
        checksums[part] = {}
        for name, of in columns.items():
            lengths = [len(tracks) for tracks in table["tracks"].to_pylist()]
            rows = [[of(number + row, place) for place in range(length)] for row, length in enumerate(lengths)]
            texts[name] += rows
            for row in rows:
                trained = row if part.startswith("train") else row[:-2] if part.startswith("part") else []
                seen[name].update(filter(None, trained))
            groups = [rows[first : first + group_size] for first in range(0, len(rows), group_size)]
            flat = [pa.array([value for row in group for value in row], pa.string()) for group in groups]
            checksums[part][name] = [Words.of(values).checksum for values in flat]
            table = table.append_column(name, pa.array(rows, pa.list_(pa.string())))
        number += len(table)
        pq.write_table(table, data / SESSIONS / part, row_group_size=group_size)
    manifest.model_copy(
        update={
            "context_columns": [*columns],
            "contexts": {name: sorted(values) for name, values in seen.items()},
            "context_checksums": checksums,
        }
    ).write(data)
    return texts


def words(*values: str | None) -> Column:
    """A column that says these, by a hash of session and place."""
    return lambda session, place: values[(session * 7919 + place * 104729 + session * place) % len(values)]
