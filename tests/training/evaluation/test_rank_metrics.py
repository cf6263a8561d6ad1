"""HR@K, NDCG and MRR by hand, on one rank and on several."""

import math
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import rank
from skipwise.training.evaluation.rank_metrics import RankMetrics, SkipRanking
from tests.ranks import run_on_ranks

RANKS = [1, 3, 10, 11, 21, 5]
EXPECTED = {
    "hr@1": 1 / 6,
    "hr@5": 3 / 6,
    "hr@10": 4 / 6,
    "hr@20": 5 / 6,
    "ndcg@10": (1 + 1 / 2 + 1 / math.log2(11) + 1 / math.log2(6)) / 6,
    "mrr": (1 + 1 / 3 + 1 / 10 + 1 / 11 + 1 / 21 + 1 / 5) / 6,
    "sessions": 6,
}


def test_worked_by_hand():
    metrics = RankMetrics()
    metrics.update(torch.tensor(RANKS[:4]))
    metrics.update(torch.tensor(RANKS[4:]))
    assert metrics.compute() == pytest.approx(EXPECTED)


def test_no_sessions_is_zero_not_nan():
    assert RankMetrics().compute()["hr@10"] == 0


def uneven_share() -> dict:
    metrics = RankMetrics()
    metrics.update(torch.tensor(RANKS[:1] if rank() == 0 else RANKS[1:]))
    return metrics.compute()


@pytest.mark.ranks
def test_ranks_with_uneven_shares_agree(tmp_path: Path):
    for result in run_on_ranks(tmp_path, 2, uneven_share):
        assert result == pytest.approx(EXPECTED)


def test_skip_ranking_worked_by_hand():
    """Skipped targets (strength 1, 2) at ranks 1 and 31 of 100 others, kept ones (0, 3) at ranks 11, 2 and 2 of 50.

    So 100 and 70 of 100 candidates come after the skipped ones, 40, 49 and 49 of 50 after the kept ones.
    """
    metrics = SkipRanking()
    metrics.update(torch.tensor([1, 11]), torch.tensor([100, 50]), torch.tensor([1, 0], dtype=torch.int8))
    metrics.update(torch.tensor([31, 2, 2]), torch.tensor([100, 50, 50]), torch.tensor([2, 3, 0], dtype=torch.int8))
    assert metrics.compute() == pytest.approx(
        {
            "skipped_percentile_rank": (100 + 70) / 2,
            "skipped_hr@10": 1 / 2,
            "skipped_sessions": 2,
            "kept_percentile_rank": (80 + 98 + 98) / 3,
            "kept_hr@10": 2 / 3,
            "kept_sessions": 3,
        }
    )
