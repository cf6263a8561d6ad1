"""Means over targets and their groups by hand, on one rank and on several."""

import math
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import rank
from skipwise.training.evaluation.rank_metrics import RankMetrics
from tests.ranks import run_on_ranks

COLUMNS = {
    "session": [3, 3, 5, 8, 8, 9],
    "rank": [1, 3, 10, 11, 0, 5],
    "ties": [0, 0, 0, 0, 0, 1],
    "candidates": [100, 50, 100, 100, 50, 8],
    "skips": [0, 1, 2, 3, 0, 1],
    "repeated": [0, 0, 0, 0, 1, 1],
}
"""Kept (strength 0, 3): ranks 1, 11 and one that is not eligible. Skipped: 3, 10, and 5 or 6."""
EXPECTED = {
    "sessions": 4,
    "targets": 6,
    "hr@1": 1 / 6,
    "hr@5": (2 + 0.5) / 6,
    "hr@10": 4 / 6,
    "hr@20": 5 / 6,
    "ndcg@10": (1 + 1 / 2 + 1 / math.log2(11) + (1 / math.log2(6) + 1 / math.log2(7)) / 2) / 6,
    "mrr": (1 + 1 / 3 + 1 / 10 + 1 / 11 + (1 / 5 + 1 / 6) / 2) / 6,
    "percentile_rank": (100 + 96 + 91 + 90 + 0 + 43.75) / 6,
    "kept_targets": 3,
    "kept_hr@10": 1 / 3,
    "kept_percentile_rank": (100 + 90 + 0) / 3,
    "skipped_targets": 3,
    "skipped_hr@10": 1,
    "skipped_hr@5": (1 + 0.5) / 3,
    "new_targets": 4,
    "new_hr@10": 3 / 4,
    "repeated_targets": 2,
    "repeated_hr@10": 1 / 2,
}


def columns(chosen: slice) -> dict[str, torch.Tensor]:
    found = {name: torch.tensor(values)[chosen] for name, values in COLUMNS.items()}
    return found | {"repeated": found["repeated"].bool(), "target": torch.zeros(0)}


def test_worked_by_hand():
    metrics = RankMetrics()
    for chosen in (slice(0, 1), slice(1, 5), slice(5, 5), slice(5, 6)):  # a session may go on in the next batch
        metrics.update(**columns(chosen))
    found = metrics.compute()
    assert {name: found[name] for name in EXPECTED} == pytest.approx(EXPECTED)


def test_a_target_of_which_it_is_not_known_counts_in_the_whole_alone():
    metrics, given = RankMetrics(), columns(slice(0, 2))
    metrics.update(**given | {"skips": torch.tensor([0, -1])})
    found = metrics.compute()
    assert (found["targets"], found["kept_targets"], found["skipped_targets"]) == (2, 1, 0)
    assert found["kept_hr@1"] == 1 and found["hr@1"] == 0.5


def test_no_target_is_no_figure():
    found = RankMetrics().compute()
    assert found["hr@10"] is None and found["kept_hr@10"] is None and found["targets"] == found["sessions"] == 0


def test_a_group_without_a_target_has_no_figure():
    metrics = RankMetrics()
    metrics.update(**columns(slice(0, 1)))
    found = metrics.compute()
    assert found["kept_hr@10"] == 1 and found["skipped_hr@10"] is None and found["skipped_targets"] == 0


def uneven_share() -> dict:
    metrics = RankMetrics()
    metrics.update(**columns(slice(0, 2) if rank() == 0 else slice(2, 6)))
    return metrics.compute()


@pytest.mark.ranks
def test_ranks_with_uneven_shares_agree(tmp_path: Path):
    for result in run_on_ranks(tmp_path, 2, uneven_share):
        assert {name: result[name] for name in EXPECTED} == pytest.approx(EXPECTED)


def test_the_first_session_may_be_number_0():
    metrics = RankMetrics()
    metrics.update(**columns(slice(0, 2)) | {"session": torch.tensor([0, 0])})
    assert metrics.compute()["sessions"] == 1
