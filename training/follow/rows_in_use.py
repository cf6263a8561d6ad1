"""A run that follows as others read it: at its best checkpoint, with the new tracks that have rows there."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import write_table
from skipwise.datapipes.exact_files import parquet, write
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.training.checkpoint.checkpoint_index import read_index
from skipwise.training.checkpoint.checkpoints import INDEX, best_checkpoint
from skipwise.training.follow.publishing import DeltaPoint
from skipwise.training.follow.spare_rows import WAITS, SpareRows, record_of_rows
from skipwise.training.run.directory import RunDirectory


@dataclass(frozen=True)
class RowsInUse:
    """The rows of a run's table that belong to tracks."""

    vocabulary: Vocabulary
    num_rows: int
    rows_hash: str
    delta: DeltaPoint
    """The last delta before the checkpoint; 0 for a run that does not follow."""


def rows_in_use(run: RunDirectory, scratch: Path) -> RowsInUse:
    """Of the run's best checkpoint; of one that follows, the vocabulary is written into `scratch`."""
    if not run.config.follow:
        return RowsInUse(run.vocabulary, run.record.num_rows, run.record.rows_hash, DeltaPoint())
    position = read_index(best_checkpoint(run.path) / INDEX).position
    spare = SpareRows(run.record.num_rows, run.config.stream)
    if part := position.epoch - (position.step == 0):
        spare.read(record_of_rows(run.path, part))
    new, whole = scratch / "new-tracks.parquet", scratch / "rows-in-use.parquet"
    tracks = sorted((one.row, track, one) for track, one in spare.tracks.items() if one.row != WAITS)
    columns = {
        "track_id": pa.array([track for _, track, _ in tracks], pa.string()),
        "row": pa.array([row for row, *_ in tracks], pa.int32()),
        "count": pa.array([one.plays for *_, one in tracks], pa.int64()),
    }
    for name in sorted({name for *_, one in tracks for name in one.names}):
        columns[name] = pa.array([one.names.get(name) for *_, one in tracks], pa.string())
    write_table(pa.table(columns), new)
    try:
        with duckdb.connect() as engine:
            both = f"SELECT * FROM {parquet(run.vocabulary.file)} UNION ALL BY NAME SELECT * FROM {parquet(new)}"
            write(engine.sql(f"{both} ORDER BY row"), whole)
    except duckdb.Error as error:
        raise UserError(f"{run.path} has a vocabulary that cannot be read ({brief(error)}): train again") from error
    found = Vocabulary(whole, spare.num_rows, "", "train again")
    digest = found.digest()
    delta = DeltaPoint.model_validate(position.results.get("delta", {}))
    return RowsInUse(Vocabulary(whole, spare.num_rows, digest, "train again"), spare.num_rows, digest, delta)
