"""Whether an export fits where it is to go, before any of it is written."""

import shutil
from pathlib import Path

from skipwise.common.errors import UserError
from skipwise.retrieval.encodings import row_bytes


def check_space(scratch: Path, output: Path, rows: int, dim: int, dtype: str) -> None:
    """Raises `UserError` where the file system of `scratch` has less room than the embeddings alone take."""
    needed, free = rows * row_bytes(dim, dtype), shutil.disk_usage(scratch).free
    if needed > free:
        raise UserError(
            f"{output} needs {needed / 1e6:,.1f} MB for {rows:,} rows of {dim} {dtype} and its file system has "
            f"{free / 1e6:,.1f} MB free: free some, or choose another --output"
        )
