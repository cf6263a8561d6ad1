"""Which rows of a run's table differ from another run's, found without holding either of them.

Shape legend: R rows of this rank, X rows of this rank whose tracks the other run knows, D width.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from skipwise.common.distributed import on_all_ranks, rank
from skipwise.common.errors import UserError
from skipwise.datapipes.vocabulary_match import match
from skipwise.training.build import TABLE_WEIGHT
from skipwise.training.checkpoint.checkpoint_index import FileRecord, Index, StorageError
from skipwise.training.checkpoint.checkpoints import best_checkpoint, open_checkpoint
from skipwise.training.checkpoint.state import MODEL
from skipwise.training.checkpoint.storage import read_rows
from skipwise.training.run.directory import RunDirectory

GONE = "gone.parquet"
_TABLE = MODEL + TABLE_WEIGHT
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Since:
    """The run that a delta is counted from, its tracks matched with this run's in files of `scratch`."""

    run: RunDirectory
    checkpoint: Path
    index: Index
    scratch: Path

    @property
    def matches(self) -> Path:
        """`row` of this run's table and `source`, the other one's row of the same track."""
        return self.scratch / "matches.parquet"

    @property
    def vocabulary(self) -> Path:
        """This run's tracks and, behind them, those that only the other run has."""
        return self.scratch / "vocabulary.parquet"


def open_since(path: str, run: RunDirectory, scratch: Path) -> Since:
    """Opens the other run and matches its tracks; all ranks call it together.

    Raises `UserError` for a run without whole best weights, or whose rows are of another width.
    """
    other = on_all_ranks(lambda: _open(path, run))
    checkpoint = on_all_ranks(lambda: best_checkpoint(other.path))
    since = Since(other, checkpoint, open_checkpoint(checkpoint), scratch)
    shape, expected = since.index["tensors"].get(_TABLE, {}).get("shape"), [other.record.num_rows, run.config.table.dim]
    if shape != expected:
        raise UserError(f"{checkpoint} holds a table of {shape}, expected {expected}: name another --only-new-since")

    def match_tracks() -> None:
        if rank() == 0:
            other.vocabulary.check()
            match(other.vocabulary, run.vocabulary, True, since.vocabulary, since.matches)

    on_all_ranks(match_tracks)
    return since


def _open(path: str, run: RunDirectory) -> RunDirectory:
    other = RunDirectory.open(path)
    dims = [each.config.table.dim for each in (other, run)]
    if dims[0] != dims[1]:
        raise UserError(
            f"--only-new-since {other.path} has rows of {dims[0]} numbers and {run.path} has {dims[1]}, so all are "
            "new: leave --only-new-since out"
        )
    return other


def changed_rows(since: Since, first: int, rows_RD: Tensor) -> tuple[Tensor, int]:
    """bool [R]: the rows, the first of which is the table's row `first`, that are not bit for bit the other run's.

    Also how many of them are of tracks that it does not know. Numbers are compared as float32, before any conversion.
    """
    rows = pq.read_table(since.matches, filters=[("row", ">=", first), ("row", "<", first + len(rows_RD))])
    target_X, source_X = (rows[name].to_numpy().astype(np.int64) for name in ("row", "source"))
    order_X = source_X.argsort(kind="stable")
    target_X, source_X = target_X[order_X] - first, source_X[order_X]
    chosen_R = torch.ones(len(rows_RD), dtype=torch.bool)
    begin = 0
    while begin < len(source_X):
        end = int(np.searchsorted(source_X, source_X[begin] + _BLOCK_ROWS))
        low, high = int(source_X[begin]), int(source_X[end - 1]) + 1
        try:
            block = read_rows(since.checkpoint, since.index, _TABLE, low, high)
        except StorageError as error:
            raise UserError(f"{error}: expected a whole checkpoint; name another --only-new-since") from error
        target = torch.from_numpy(target_X[begin:end])
        live = rows_RD[target.to(rows_RD.device)].cpu().float()
        before = block[torch.from_numpy(source_X[begin:end] - low)].float()
        chosen_R[target] = (live.view(torch.int32) != before.view(torch.int32)).any(dim=1)
        begin = end
    return chosen_R, len(rows_RD) - len(source_X)


def write_gone(since: Since, result: Path, table_rows: int) -> dict[str, Any]:
    """Writes the ids of the tracks that only the other run has; the file's record, with its `rows`."""
    gone = pq.read_table(since.vocabulary, columns=["track_id"], filters=[("row", ">=", table_rows)])
    pq.write_table(gone, result / GONE)
    if not pq.read_table(result / GONE).equals(gone):
        raise UserError(f"{GONE} read back differs from what was written: check the disk, then export again")
    return asdict(FileRecord.of(result, GONE)) | {"rows": len(gone)}


def since_record(since: Since, table_rows: int, exported: int, new: int, gone: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says; `exported` and `new`: rows of all ranks."""
    changed = exported - new
    return {
        "run": str(since.run.path),
        "rows_hash": since.run.record.rows_hash,
        "table_rows": table_rows,
        "changed": changed,
        "unchanged": table_rows - exported,
        "new": new,
        "gone": gone["rows"],
        "gone_tracks": gone,
    }
