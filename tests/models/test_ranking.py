"""Sharded ranks against brute force, ties and broken scores included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.models import ranking, row_threads
from skipwise.models.config import row_block
from skipwise.models.ranking import (
    Counts,
    candidate_counts,
    candidate_scores,
    full_counts,
    full_counts_and_topk,
    full_target_scores,
    full_topk,
)


def sharded_counts(queries, table, target, extra, ranks: int, candidates: bool) -> list[Counts]:
    """What `Evaluator` does, with the ranks' sums in a loop: [of candidates], or [of rows not in extra, in it]."""
    blocks = [row_block(len(table), rank, ranks) for rank in range(ranks)]
    shards = [(first, table[first:last]) for first, last in blocks]
    if candidates:
        scored = [candidate_scores(queries, torch.cat([target[:, None], extra], 1), *shard) for shard in shards]
        target_scores = sum(scores[:, 0] for scores, _ in scored)
        found = [[candidate_counts(scores[:, 1:], target_scores, own[:, 1:])] for scores, own in scored]
    else:
        target_scores = sum(full_target_scores(queries, target, *shard) for shard in shards)
        found = [full_counts(queries, target_scores, target, extra, *shard) for shard in shards]
    return [Counts(*map(sum, zip(*counts, strict=True))) for counts in zip(*found, strict=True)]


def lists(counts: list[Counts]) -> list[tuple[list[int], list[int]]]:
    return [(above.tolist(), ties.tolist()) for above, ties in counts]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tracks=st.integers(12, 300),
    ranks=st.integers(1, 5),
    candidates=st.booleans(),
    block=st.integers(1, 3),
)
def test_equal_to_brute_force(seed: int, tracks: int, ranks: int, candidates: bool, block: int):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-3, 4, (9, 4), generator=generator).float()  # whole numbers: plenty of exact ties
    table = torch.randint(-3, 4, (tracks, 4), generator=generator).float()
    target = torch.randint(0, tracks, (9,), generator=generator)
    extra = torch.stack([torch.randperm(tracks, generator=generator)[:5] for _ in range(9)])
    extra[::2, 3:] = -1  # padding
    if candidates:
        extra = torch.where(extra == target[:, None], (extra + 1) % tracks, extra)
    scores = queries @ table.T

    def brute(rows_of) -> tuple[list[int], list[int]]:
        above, ties = [], []
        for session in range(9):
            goal = scores[session, target[session]]
            others = [scores[session, row] for row in rows_of(session) if row not in (-1, int(target[session]))]
            above.append(sum(bool(score > goal) for score in others))
            ties.append(sum(bool(score == goal) for score in others))
        return above, ties

    expected = [brute(lambda session: extra[session].tolist())]
    if not candidates:
        expected.insert(0, brute(lambda session: set(range(tracks)) - set(extra[session].tolist())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ROWS", 64 * block)
        assert lists(sharded_counts(queries, table, target, extra, ranks, candidates)) == expected


@pytest.mark.parametrize("onednn", [False, True])
def test_threads_share_the_rows_as_ranks_do(onednn: bool, monkeypatch: pytest.MonkeyPatch):
    """Of one thread and of three, by either product: the same counts, best rows and scores; the setting is put back."""
    monkeypatch.setattr(row_threads, "_FEWEST_SCORES", 1)
    monkeypatch.setattr(ranking, "_is_by_onednn", lambda: onednn)
    queries, table = torch.randn(40, 16), torch.randn(8000, 16)
    table[5000:] = table[:3000]  # ties across parts
    target, heard = torch.randint(8000, (40,)), torch.randint(-1, 8000, (40, 5))
    allowed, before, found = torch.rand(8000) < 0.5, torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            scores = full_target_scores(queries, target, 0, table)
            excluded = torch.cat([target[:, None], heard], dim=1)
            counts, best = full_counts_and_topk(queries, 9, scores, excluded, 0, table)
            both = full_counts(queries, scores, target, heard, 0, table)
            found.append([*counts, *best, *both[0], *both[1], *full_topk(queries, 9, heard, 0, table, allowed)])
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


def test_a_collapsed_model_ties_with_everything():
    table = torch.randn(1, 128).expand(1000, 128).contiguous()
    queries, target = torch.randn(5, 128), torch.tensor([0, 3, 500, 998, 999])
    candidates = torch.stack([torch.randperm(1000)[:100] for _ in range(5)])
    candidates = torch.where(candidates == target[:, None], (candidates + 1) % 1000, candidates)
    for ranks in (1, 3):
        assert lists(sharded_counts(queries, table, target, candidates, ranks, True)) == [([0] * 5, [100] * 5)]
        fresh, heard = lists(sharded_counts(queries, table, target, candidates, ranks, False))
        assert (fresh, heard) == (([0] * 5, [899] * 5), ([0] * 5, [100] * 5))


def test_scores_that_are_not_numbers_count_against_the_model():
    table, queries = torch.randn(50, 4), torch.full((2, 4), float("nan"))
    target, candidates = torch.tensor([1, 2]), torch.tensor([[4, 5], [6, 7]])
    assert lists(sharded_counts(queries, table, target, candidates, 2, True)) == [([2, 2], [0, 0])]
    fresh, heard = lists(sharded_counts(queries, table, target, candidates, 2, False))
    assert (fresh, heard) == (([47, 47], [0, 0]), ([2, 2], [0, 0]))
    table[[7, 30]] = float("nan")
    queries = torch.zeros(2, 4)
    table[:5], queries[:, 0] = torch.tensor([9.0, 0, 0, 0]), 1
    nothing = torch.full((2, 1), -1)
    table[5:, 0] = torch.where(table[5:, 0].isnan(), table[5:, 0], 1.0)
    fresh, _ = lists(sharded_counts(queries, table, target, nothing, 2, False))
    assert fresh == ([2, 2], [4, 4])  # 2 broken ones are above, 4 equals are ties


@pytest.mark.parametrize(("queries", "dim"), [(1, 20), (37, 128), (512, 64), (700, 36)])
def test_equal_rows_score_equal_wherever_they_stand(queries: int, dim: int):
    """In every column of a block, whole or padded, and as a target: else ties would be broken by rounding."""
    queries_QD, row_D = torch.randn(queries, dim), torch.randn(1, dim)
    height = ranking._product_rows(queries_QD)
    table_RD = torch.cat([row_D.expand(height, dim), torch.randn(3, dim), row_D.expand(70, dim)])
    target_Q = torch.randint(height, (queries,))
    scores_Q = full_target_scores(queries_QD, target_Q, 0, table_RD)
    assert torch.allclose(scores_Q, queries_QD @ row_D[0], atol=1e-4)
    for start, scores_NQB, _ in ranking.score_blocks(queries_QD, target_Q[:, None], 0, table_RD):
        scores_QB = scores_NQB.transpose(0, 1).flatten(1)
        same_B = (table_RD[start : start + scores_QB.shape[1]] == row_D).all(dim=1)
        assert (scores_QB[:, : len(same_B)][:, same_B] == scores_Q[:, None]).all()


def test_scores_are_float32_products():
    queries_QD, table_RD = torch.randn(64, 128), torch.randn(5000, 128)
    exact_QR = queries_QD.double() @ table_RD.double().T
    lengths_QR = queries_QD.double().norm(dim=1)[:, None] * table_RD.double().norm(dim=1)
    for start, scores_NQB, _ in ranking.score_blocks(queries_QD, torch.full((64, 1), -1), 0, table_RD):
        scores_QB = scores_NQB.transpose(0, 1).flatten(1)
        part = slice(start, start + scores_QB.shape[1])
        exact_QB = exact_QR[:, part]
        errors_QB = (scores_QB[:, : exact_QB.shape[1]] - exact_QB).abs() / lengths_QR[:, part]
        assert errors_QB.max() < 128 * 2.0**-24  # bfloat16 inside would be off by a hundred times that
