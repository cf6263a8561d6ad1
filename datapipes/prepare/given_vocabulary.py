"""The tracks that `--vocabulary` names, in their rows."""

import os
from pathlib import Path
from typing import NamedTuple

from skipwise.common.errors import UserError
from skipwise.common.files import read_json
from skipwise.common.mirrors import local
from skipwise.common.schema import PositiveCount, Sha256, StrictModel, validate
from skipwise.datapipes.manifest import MANIFEST, PREPARE_AGAIN, RUN_RECORD, VOCABULARY, Counts, Manifest
from skipwise.datapipes.vocabulary import Vocabulary


class _Run(StrictModel, extra="ignore"):
    """What is read of a run's record."""

    counts: Counts
    vocabulary_hash: Sha256
    rows: PositiveCount | None = None
    rows_hash: Sha256 | None = None
    """Of the table's rows: the dataset's tracks and, after them, those kept from an earlier run."""


class Known(NamedTuple):
    """The tracks of a dataset directory or a run."""

    file: Path
    """Its vocabulary."""
    num_tracks: int
    """How many of its rows are the dataset's tracks."""
    digest: str
    """SHA-256, in hex, over the ids of all rows."""


def given_vocabulary(folder: Path) -> Known:
    """Returns the tracks of a dataset directory or a run.

    Raises `UserError` where `folder` is neither, or the file is not what its manifest or record was written for.
    """
    folder = local(folder, lambda name: name in (MANIFEST, RUN_RECORD, VOCABULARY))
    if os.path.exists(folder / MANIFEST):
        manifest, remedy = Manifest.read(folder), PREPARE_AGAIN
        num_tracks = num_rows = manifest.counts["tracks"]
        rows_hash = manifest.vocabulary_hash
    elif os.path.exists(folder / RUN_RECORD):
        record, remedy = folder / RUN_RECORD, "restore the file, or train again"
        run = validate(_Run, read_json(record, "a run directory that train wrote"), record, remedy)
        num_tracks = run.counts["tracks"]
        num_rows, rows_hash = run.rows or num_tracks, run.rows_hash or run.vocabulary_hash
    else:
        raise UserError(
            f"--vocabulary {folder} has neither {MANIFEST} nor {RUN_RECORD}: name a dataset directory that prepare "
            f"wrote, or a run directory that train wrote"
        )
    Vocabulary(folder / VOCABULARY, num_rows, rows_hash, remedy).check()
    return Known(folder / VOCABULARY, num_tracks, rows_hash)
