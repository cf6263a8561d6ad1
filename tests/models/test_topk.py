"""The best rows against a full sort: ties, rows left out, broken scores, too few rows, any order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipwise.models import ranking
from skipwise.models.config import row_block
from skipwise.models.ranking import full_topk
from skipwise.models.topk import StreamingTopK, best_of


def brute_force(scores_QR: Tensor, excluded_QX: Tensor, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Python's own sort by (no number first, score, lower row); what is missing is row -1."""
    rows, scores = [], []
    for query, row_scores in enumerate(scores_QR.tolist()):
        left = set(range(len(row_scores))) - set(excluded_QX[query].tolist())
        order = sorted(left, key=lambda row: (row_scores[row] == row_scores[row], -row_scores[row], row))[:k]
        rows.append(order + [-1] * (k - len(order)))
        scores.append([row_scores[row] for row in order] + [float("-inf")] * (k - len(order)))
    return rows, scores


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tracks=st.integers(1, 400),
    k=st.sampled_from([1, 3, 20, 70]),
    shards=st.integers(1, 3),
    values=st.integers(1, 9),
    order=st.sampled_from(["random", "ascending", "descending"]),
)
def test_equal_to_brute_force(seed: int, tracks: int, k: int, shards: int, values: int, order: str):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-values, values + 1, (7, 4), generator=generator).float()  # whole numbers: exact, many ties
    table = torch.randint(-values, values + 1, (tracks, 4), generator=generator).float()
    if order != "random":  # the best rows last: all that has been kept must go again
        table = table[(table @ queries[0]).argsort(descending=order == "descending")]
    excluded = torch.randint(-1, tracks, (7, 5), generator=generator)
    expected = brute_force(queries @ table.T, excluded, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ROWS", 64)
        pieces = [row_block(tracks, number, shards) for number in range(shards)]
        pieces = [(first, table[first:last]) for first, last in pieces]
        best = [full_topk(queries, k, excluded, *piece) for piece in pieces]
    merged = best_of(*(torch.cat(values, dim=1) for values in zip(*best, strict=True)), k)
    assert (merged[0].tolist(), merged[1].tolist()) == expected


def test_rows_that_score_no_number_come_first():
    queries, table = torch.ones(3, 4), torch.arange(200.0)[:, None].expand(200, 4).clone()
    table[[150, 70]] = float("nan")
    queries[1] = float("nan")
    excluded = torch.tensor([[-1, -1], [0, 2], [150, 199]])
    rows, scores = full_topk(queries, 4, excluded, 0, table)
    assert rows.tolist() == [[70, 150, 199, 198], [1, 3, 4, 5], [70, 198, 197, 196]]
    assert scores.isnan().tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]


def test_equal_rows_are_listed_from_the_lowest():
    rows, scores = full_topk(torch.ones(2, 8), 5, torch.tensor([[1], [-1]]), 1000, torch.ones(9000, 8))
    assert rows.tolist() == [[1000, 1001, 1002, 1003, 1004]] * 2 and (scores == 8).all()


def test_rows_of_infinite_scores():
    best = StreamingTopK(1, 3, torch.device("cpu"))
    scores = torch.full((1, 1, 64), float("-inf"))
    scores[0, 0, [5, 9]] = float("inf")
    best.add(scores, 0)
    best.add(torch.full((1, 1, 64), float("inf")), 64)
    assert best.result()[0].tolist() == [[5, 9, 64]]
