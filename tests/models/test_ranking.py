"""Sharded ranks against brute force, ties and broken scores included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.models import ranking
from skipwise.models.config import row_block
from skipwise.models.ranking import full_counts, full_target_scores, uniform_scores


def sharded_ranks(queries, table, target, extra, ranks: int, protocol: str) -> torch.Tensor:
    """What `Evaluator` does, with the ranks' sums taken in a loop."""
    blocks = [row_block(len(table), rank, ranks) for rank in range(ranks)]
    shards = [(first, table[first:last]) for first, last in blocks]
    if protocol == "uniform":
        scored = [uniform_scores(queries, torch.cat([target[:, None], extra], 1), *shard) for shard in shards]
        target_scores = sum(scores[:, 0] for scores, _ in scored)
        return 1 + sum((~(scores[:, 1:] < target_scores[:, None]) & own[:, 1:]).sum(1) for scores, own in scored)
    target_scores = sum(full_target_scores(queries, target, *shard) for shard in shards)
    excluded = torch.cat([target[:, None], extra], 1)
    return 1 + sum(full_counts(queries, target_scores, excluded, *shard) for shard in shards)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tracks=st.integers(12, 300),
    ranks=st.integers(1, 5),
    protocol=st.sampled_from(["uniform", "full"]),
    block=st.integers(1, 3),
)
def test_equal_to_brute_force(seed: int, tracks: int, ranks: int, protocol: str, block: int):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-3, 4, (9, 4), generator=generator).float()  # whole numbers: plenty of exact ties
    table = torch.randint(-3, 4, (tracks, 4), generator=generator).float()
    target = torch.randint(0, tracks, (9,), generator=generator)
    extra = torch.stack([torch.randperm(tracks, generator=generator)[:5] for _ in range(9)])
    if protocol == "uniform":
        extra = torch.where(extra == target[:, None], (extra + 1) % tracks, extra)
    scores = queries @ table.T
    expected = []
    for session in range(9):
        rivals = (
            set(extra[session].tolist()) if protocol == "uniform" else set(range(tracks)) - set(extra[session].tolist())
        )
        listed = extra[session].tolist() if protocol == "uniform" else sorted(rivals)
        goal = scores[session, target[session]]
        expected.append(1 + sum(bool(scores[session, row] >= goal) for row in listed if row != target[session]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ROWS", 64 * block)
        assert sharded_ranks(queries, table, target, extra, ranks, protocol).tolist() == expected


def test_a_collapsed_model_is_ranked_last():
    """All rows equal: every candidate ties with the target, and ties count against the model."""
    table = torch.randn(1, 128).expand(1000, 128).contiguous()
    queries, target = torch.randn(5, 128), torch.tensor([0, 3, 500, 998, 999])
    candidates = torch.stack([torch.randperm(1000)[:100] for _ in range(5)])
    candidates = torch.where(candidates == target[:, None], (candidates + 1) % 1000, candidates)
    for ranks in (1, 3):
        assert sharded_ranks(queries, table, target, candidates, ranks, "uniform").tolist() == [101] * 5
        nothing = torch.full((5, 1), -1)
        assert sharded_ranks(queries, table, target, nothing, ranks, "full").tolist() == [1000] * 5


def test_scores_that_are_not_numbers_count_against_the_model():
    table, queries = torch.randn(50, 4), torch.full((2, 4), float("nan"))
    target, candidates = torch.tensor([1, 2]), torch.tensor([[4, 5], [6, 7]])
    assert sharded_ranks(queries, table, target, candidates, 2, "uniform").tolist() == [3, 3]
    assert sharded_ranks(queries, table, target, torch.full((2, 1), -1), 2, "full").tolist() == [50, 50]
    assert sharded_ranks(queries, table, target, candidates, 2, "full").tolist() == [48, 48]
    table[[7, 30]] = float("nan")
    queries = torch.zeros(2, 4)
    table[:5], queries[:, 0] = torch.tensor([9.0, 0, 0, 0]), 1
    nothing = torch.full((2, 1), -1)
    table[5:, 0] = torch.where(table[5:, 0].isnan(), table[5:, 0], 1.0)
    assert sharded_ranks(queries, table, target, nothing, 2, "full").tolist() == [7, 7]  # 4 equals and 2 broken


@pytest.mark.parametrize(("queries", "dim"), [(1, 20), (37, 128), (512, 64), (700, 36)])
def test_equal_rows_score_equal_wherever_they_stand(queries: int, dim: int):
    """In every column of a block, whole or padded, and as a target: else ties would be broken by rounding."""
    queries_QD, row_D = torch.randn(queries, dim), torch.randn(1, dim)
    height = ranking._block_rows(queries)
    table_RD = torch.cat([row_D.expand(height, dim), torch.randn(3, dim), row_D.expand(70, dim)])
    target_Q = torch.randint(height, (queries,))
    scores_Q = full_target_scores(queries_QD, target_Q, 0, table_RD)
    assert torch.allclose(scores_Q, queries_QD @ row_D[0], atol=1e-4)
    for start, scores_QB, _ in ranking.score_blocks(queries_QD, target_Q[:, None], 0, table_RD):
        same_B = (table_RD[start : start + height] == row_D).all(dim=1)
        assert (scores_QB[:, : len(same_B)][:, same_B] == scores_Q[:, None]).all()


def test_scores_are_float32_products():
    queries_QD, table_RD = torch.randn(64, 128), torch.randn(5000, 128)
    exact_QR = queries_QD.double() @ table_RD.double().T
    lengths_QR = queries_QD.double().norm(dim=1)[:, None] * table_RD.double().norm(dim=1)
    for start, scores_QB, _ in ranking.score_blocks(queries_QD, torch.full((64, 1), -1), 0, table_RD):
        part = slice(start, start + scores_QB.shape[1])
        exact_QB = exact_QR[:, part]
        errors_QB = (scores_QB[:, : exact_QB.shape[1]] - exact_QB).abs() / lengths_QR[:, part]
        assert errors_QB.max() < 128 * 2.0**-24  # bfloat16 inside would be off by a hundred times that
