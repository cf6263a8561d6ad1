"""Ranks on disk: every session once whatever the ranks, nothing half-written, and what is damaged is refused."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.distributed import rank
from skipwise.common.errors import UserError
from skipwise.training.evaluation.records import TargetRanks, TargetRankWriter, has_target_ranks, read_target_ranks
from tests.ranks import run_on_ranks


def batch_of(sessions: list[int]) -> dict[str, torch.Tensor]:
    """Columns that tell their session: rank = session + 1, and so on."""
    number = torch.tensor(sessions)
    columns = {field.name: number + index for index, field in enumerate(fields(TargetRanks))}
    return columns | {"repeated": number % 2 == 1}


def write_share(folder: Path) -> None:
    with TargetRankWriter(folder, "paper", "test") as record:
        for sessions in ([5, 0], [9]) if rank() == 0 else ([2, 7], []):
            record.write(**batch_of(sessions))


@pytest.mark.ranks
def test_parts_of_all_ranks_come_back_in_session_order(tmp_path: Path):
    run_on_ranks(tmp_path, 2, write_share, tmp_path)
    ranks = read_target_ranks(tmp_path, "paper", "test")
    for index, field in enumerate(fields(TargetRanks)):
        expected = np.array([0, 2, 5, 7, 9]) + index
        if field.name == "repeated":
            expected = np.array([False, False, True, True, True])
        assert np.array_equal(getattr(ranks, field.name), expected)


def test_a_measurement_that_fails_leaves_the_one_before(tmp_path: Path):
    assert not has_target_ranks(tmp_path, "full", "test")
    with TargetRankWriter(tmp_path, "full", "test") as record:
        record.write(**batch_of([1]))
    with pytest.raises(KeyError), TargetRankWriter(tmp_path, "full", "test") as record:
        record.write(**batch_of([2]))
        raise KeyError
    assert has_target_ranks(tmp_path, "full", "test")
    assert read_target_ranks(tmp_path, "full", "test").session.tolist() == [1]


def test_missing_and_damaged_records_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no ranks: measure the run"):
        read_target_ranks(tmp_path, "paper", "test")
    with TargetRankWriter(tmp_path, "paper", "test") as record:
        record.write(**batch_of([1]))
    part = tmp_path / "ranks" / "paper-test" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(UserError, match="paper-test cannot be read"):
        read_target_ranks(tmp_path, "paper", "test")


def test_records_of_an_older_version_are_refused(tmp_path: Path):
    with TargetRankWriter(tmp_path, "full", "test") as record:
        record.write(**batch_of([1]))
    part = tmp_path / "ranks" / "full-test" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["ties", "repeated"]), part)
    with pytest.raises(UserError, match="part-00000.parquet lacks repeated, ties.*measure the run again"):
        read_target_ranks(tmp_path, "full", "test")


@pytest.mark.parametrize("name", ["runs-2026-11-26T16:40", "file:a", "a:1", "rank=9"])
def test_a_relative_run_directory_is_no_url(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with TargetRankWriter(Path(name), "paper", "test") as record:
        record.write(**batch_of([1, 2]))
    assert (tmp_path / name / "ranks").is_dir()
    assert read_target_ranks(Path(name), "paper", "test").rank.tolist() == [2, 3]
