"""The lines of `metrics.jsonl` that a run goes on behind."""

from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.training.run.position import Position
from skipwise.training.run.progress import _drop_later_lines


def test_lines_of_later_steps_and_lines_cut_short_are_dropped(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    lines = [f'{{"kind": "train", "step": {step}, "epoch": 1}}' for step in (1, 2, 3)]
    file.write_text("\n".join([*lines, '{"kind": "tra']))
    _drop_later_lines(file, Position(), 2)
    assert file.read_text().splitlines() == lines[:2]


def test_a_sparse_file_is_not_read_whole(tmp_path: Path):
    with open(tmp_path / "metrics.jsonl", "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError, match="metrics.jsonl has more than 268,435,456 bytes: expected the metrics of"):
        _drop_later_lines(tmp_path / "metrics.jsonl", Position(), 2)
