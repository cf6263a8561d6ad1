"""Rows of a checkpoint are those that its index tells of, in type and shape."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skipwise.training.checkpoint.checkpoint_index import CheckpointIndex
from skipwise.training.checkpoint.storage import read_rows
from skipwise.training.run.position import Position

PART = "part-00000.safetensors"


def index(dtype: str) -> CheckpointIndex:
    chunk = {"offsets": [0, 0], "shape": [4, 2], "file": PART}
    return CheckpointIndex(
        ranks=1,
        position=Position(),
        tensors={"rows": {"dtype": dtype, "shape": [4, 2], "chunks": [chunk]}},
        files=[{"file": PART, "bytes": 1, "sha256": "0" * 64}],
    )


@pytest.mark.parametrize(
    ("stored", "dtype", "found"),
    [
        (torch.ones(4, 2, dtype=torch.int64), "F64", r"I64 \[4, 2\], expected F64"),
        (torch.ones(4, 2, dtype=torch.int32), "F32", r"I32 \[4, 2\], expected F32"),
        (torch.ones(9, 2), "F32", r"F32 \[9, 2\], expected F32 \[4, 2\]"),
    ],
)
def test_another_type_or_shape_than_the_index_says_is_refused(
    stored: torch.Tensor, dtype: str, found: str, tmp_path: Path
):
    """It was converted, or a part of it read, without a word."""
    save_file({"rows@0,0": stored}, tmp_path / PART)
    with pytest.raises(OSError, match=f"it holds 'rows@0,0' as {found}"):
        read_rows(tmp_path, index(dtype), "rows", 1, 3)
