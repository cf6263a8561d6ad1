"""The metrics of a rank with ties: by hand, and as the mean over every order of the tied tracks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_reciprocal_rank,
)

from skipwise.training.evaluation.metrics import METRICS, NOT_ELIGIBLE, percentile_rank


def by_place(metric: str, place: int) -> float:
    if metric == "mrr":
        return 1 / place
    if metric == "ndcg@10":
        return 1 / math.log2(place + 1) if place <= 10 else 0.0
    return float(place <= int(metric.removeprefix("hr@")))


@given(rank=st.integers(1, 40), ties=st.integers(0, 40), metric=st.sampled_from(list(METRICS)))
def test_a_metric_is_its_mean_over_the_places_of_the_tied_tracks(rank: int, ties: int, metric: str):
    expected = np.mean([by_place(metric, place) for place in range(rank, rank + ties + 1)])
    assert METRICS[metric](np.array([rank]), np.array([ties]))[0] == pytest.approx(expected, abs=1e-12)


def test_worked_by_hand():
    """Two tracks above the target and one tie: places 3 and 4. All of 1,000 tied: every place as likely."""
    rank, ties = np.array([3, 1]), np.array([1, 999])
    found = {name: metric(rank, ties).tolist() for name, metric in METRICS.items()}
    assert found["hr@1"] == [0, 0.001] and found["hr@5"] == [1, 0.005] and found["hr@20"] == [1, 0.02]
    assert found["ndcg@10"][0] == pytest.approx((0.5 + 1 / math.log2(5)) / 2)
    assert found["mrr"][0] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert found["mrr"][1] == pytest.approx(sum(1 / place for place in range(1, 1001)) / 1000)


def test_without_ties_a_hit_is_exactly_one_or_zero():
    rank = np.arange(1, 50)
    for cutoff in (1, 5, 10, 20):
        assert METRICS[f"hr@{cutoff}"](rank, np.zeros_like(rank)).tolist() == [float(one <= cutoff) for one in rank]


def test_as_torchmetrics_has_them():
    scores = torch.from_numpy(np.random.default_rng(0).permutation(30)).float()
    for target in range(30):
        relevant = torch.arange(30) == target
        place = np.array([1 + int((scores > scores[target]).sum())]), np.zeros(1, dtype=int)
        expected = {f"hr@{k}": retrieval_hit_rate(scores, relevant, top_k=k) for k in (1, 5, 10, 20)}
        expected["ndcg@10"] = retrieval_normalized_dcg(scores, relevant, top_k=10)
        expected["mrr"] = retrieval_reciprocal_rank(scores, relevant)
        for name, value in expected.items():
            assert METRICS[name](*place)[0] == pytest.approx(float(value), rel=1e-6)


def test_a_target_that_is_not_eligible_is_a_miss():
    rank, ties = np.array([NOT_ELIGIBLE]), np.array([0])
    assert all(metric(rank, ties)[0] == 0 for metric in METRICS.values())
    assert percentile_rank(rank, ties, np.array([100]))[0] == 0


def test_percentile_rank_by_hand():
    """First, last and in the middle of 100 others; tied with all of them: half."""
    rank, ties = np.array([1, 101, 51, 1]), np.array([0, 0, 0, 100])
    assert percentile_rank(rank, ties, np.full(4, 100)).tolist() == [100, 0, 50, 50]
    assert percentile_rank(np.array([1]), np.array([0]), np.array([0])).tolist() == [100], "no other candidate"
