"""Which rows of a run's table differ from another run's, found without holding either of them.

Shape legend: R rows of this rank, X rows of this rank whose tracks the other run knows, D width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from skipwise.common.distributed import on_all_ranks, rank
from skipwise.common.errors import UserError
from skipwise.common.tables import read_table, write_table
from skipwise.datapipes.vocabulary_match import match
from skipwise.retrieval.export_manifest import CountedEntry, DeltaEntry, record_of
from skipwise.training.checkpoint.saved_rows import SavedRows, read_matches
from skipwise.training.run.directory import RunDirectory

GONE = "gone.parquet"


@dataclass(frozen=True)
class Since:
    """The run that a delta is counted from, its tracks matched with this run's in files of `scratch`."""

    run: RunDirectory
    rows: SavedRows
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
    since = Since(other, SavedRows.of_best_table(other, "name another --only-new-since"), scratch)

    def match_tracks() -> None:
        if rank() == 0:
            other.vocabulary.check()
            match(other.vocabulary, run.vocabulary, True, since.vocabulary, since.matches)

    on_all_ranks(match_tracks)
    return since


def _open(path: str, run: RunDirectory) -> RunDirectory:
    other = RunDirectory.open(path)
    if run.config.data.features or other.config.data.features:
        raise UserError(
            f"--only-new-since {other.path} does not compare rows of which features of tracks are a part: leave it out "
            "to export all"
        )
    dims = [each.config.row_table.dim for each in (other, run)]
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
    target_X, source_X = read_matches(since.matches, first, first + len(rows_RD))
    chosen_R = torch.ones(len(rows_RD), dtype=torch.bool)
    for where, block in since.rows.blocks(source_X):
        target = torch.from_numpy(target_X[where] - first)
        live = rows_RD[target.to(rows_RD.device)].cpu().float()
        chosen_R[target] = (live.view(torch.int32) != block.float().view(torch.int32)).any(dim=1)
    return chosen_R, len(rows_RD) - len(source_X)


def delta_entry(since: Since, result: Path, table_rows: int, exported: int, new: int) -> DeltaEntry:
    """What the manifest says; the ids of the tracks that are gone are written. `exported`, `new`: rows of all ranks."""
    gone = read_table(since.vocabulary, ["track_id"], filters=[("row", ">=", table_rows)])
    write_table(gone, result / GONE)
    if not read_table(result / GONE).equals(gone):
        raise UserError(f"{GONE} read back differs from what was written: check the disk, then export again")
    return DeltaEntry(
        run=str(since.run.path),
        rows_hash=since.run.record.rows_hash,
        table_rows=table_rows,
        changed=exported - new,
        unchanged=table_rows - exported,
        new=new,
        gone=len(gone),
        gone_tracks=record_of(CountedEntry, result, GONE, rows=len(gone)),
    )
