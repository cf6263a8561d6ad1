"""The staged sessions that go into the dataset: all of them, or a sample; in batches, then in row groups."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.datapipes.manifest import SESSIONS_PER_ROW_GROUP
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.staging import pattern

BATCH = 16 * SESSIONS_PER_ROW_GROUP


def draw_sample(engine: duckdb.DuckDBPyConnection, staged: Path, config: PrepareConfig) -> np.ndarray:
    """Places in the staged file of `config.sample` sessions, those with the smallest hash of seed and session id."""
    draw = f"""
        SELECT place FROM (
            SELECT file_row_number AS place, session_id FROM read_parquet('{pattern(staged)}', file_row_number = true)
            ORDER BY md5_number_upper('{config.seed}:' || session_id), session_id LIMIT {config.sample}
        ) ORDER BY place"""
    return engine.execute(draw).fetchnumpy()["place"]


def read_chosen(staged: Path, chosen: np.ndarray | None, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Batches of the staged sessions, those at the places `chosen` or all."""
    start = 0
    with pq.ParquetFile(staged) as file:
        for batch in file.iter_batches(BATCH, columns=columns):
            table = pa.Table.from_batches([batch])
            if chosen is not None:
                first, last = np.searchsorted(chosen, [start, start + len(batch)])
                table = table.take(pa.array(chosen[first:last] - start))
            start += len(batch)
            if len(table):
                yield table


def row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cuts a stream of tables into row groups, all full but the last."""
    rest = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        while len(rest) >= SESSIONS_PER_ROW_GROUP:
            yield rest.slice(0, SESSIONS_PER_ROW_GROUP).combine_chunks()
            rest = rest.slice(SESSIONS_PER_ROW_GROUP)
    if rest is not None and len(rest):
        yield rest.combine_chunks()
