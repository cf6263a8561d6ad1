"""Ranking as a GPU does it, with a kernel's counts and blocks of several products, equals the CPU's."""

from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from torch import Tensor

from skipwise.models import ranking
from skipwise.models.ranking import (
    candidate_scores,
    full_counts,
    full_counts_and_topk,
    full_target_scores,
    full_topk,
)
from skipwise.models.topk import GROUP, group_maxima

NAN, INF = float("nan"), float("inf")


def slow_summary(scores_QB: Tensor, scores_Q: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    counted_QB, goal_Q1 = scores_QB[:, :num_rows], scores_Q[:, None]
    counts_2Q = torch.stack([(counted_QB <= goal_Q1).sum(1), (counted_QB < goal_Q1).sum(1)]).int()
    return counts_2Q, group_maxima(scores_QB[None])


def product_into(queries_QD: Tensor, rows_BD: Tensor, block_QB: Tensor) -> Tensor:
    padded_BD = torch.nn.functional.pad(rows_BD, (0, 0, 0, 2 * GROUP - len(rows_BD)))
    return torch.mm(queries_QD, padded_BD.T, out=block_QB[:, : 2 * GROUP])


def like_a_gpu() -> ExitStack:
    """Blocks of three products of 128 rows, and the answers' way through the kernel's."""
    stack = ExitStack()
    for name, value in {
        "_product_rows": lambda queries_QD: 2 * GROUP,
        "_block": lambda queries_QD: queries_QD.new_empty(1, len(queries_QD), 6 * GROUP),
        "_product": product_into,
        "is_fused": lambda device: True,
        "summarize": slow_summary,
    }.items():
        stack.enter_context(mock.patch.object(ranking, name, value))
    return stack


def inputs(rows: int, span: int, order: str) -> list[Tensor]:
    """Queries, targets, rows to exclude (some twice, padding), rows that are allowed, and the table, from row 100 on.

    Whole numbers, whose sums are exact in any order; some are infinite or none.
    """
    random = torch.Generator().manual_seed(rows + span)
    queries_QD = torch.randint(-span, span + 1, (70, 8), generator=random).float() + (not span)
    table_RD = torch.randint(-span, span + 1, (rows, 8), generator=random).float() + (not span)
    if order == "ascending":
        table_RD = table_RD[(table_RD @ queries_QD[0]).argsort()]
    elif span:
        table_RD[torch.randint(rows, (3,), generator=random)] = NAN
        queries_QD[3], queries_QD[4], table_RD[rows // 2] = NAN, torch.tensor([1.0] + [0.0] * 7), 1.0
        table_RD[rows // 2, 0], table_RD[rows // 3, 0] = -INF, -INF
    target_Q = torch.randint(100, 100 + rows, (70,), generator=random)
    target_Q[::9], target_Q[4] = -1, 100 + rows // 2
    excluded_QX = torch.randint(90, 100 + rows, (70, 6), generator=random)
    excluded_QX[:, :2], excluded_QX[::3, 4:] = target_Q[:, None], -1
    return [queries_QD, target_Q, excluded_QX, torch.rand(rows, generator=random) < 0.5, table_RD]


def answers(queries_QD: Tensor, target_Q: Tensor, excluded_QX: Tensor, allowed_R: Tensor, table_RD: Tensor, k: int):
    scores_Q = full_target_scores(queries_QD, target_Q, 100, table_RD)
    found = [scores_Q]
    for counts in full_counts(queries_QD, scores_Q, target_Q, excluded_QX[:, 1:], 100, table_RD):
        found += counts
    counts, best = full_counts_and_topk(queries_QD, k, scores_Q, excluded_QX, 100, table_RD)
    found += [*counts, *best, *full_topk(queries_QD, k, excluded_QX, 100, table_RD)]
    found += [*full_topk(queries_QD, k, excluded_QX, 100, table_RD, allowed_R)]
    return [values.cpu() for values in [*found, *candidate_scores(queries_QD, excluded_QX, 100, table_RD)]]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(
            one, other, rtol=0, atol=0, equal_nan=True, msg=lambda text, n=number: f"{n}: {text}"
        )


@pytest.mark.parametrize(("rows", "span", "order"), [(900, 3, "mixed"), (1100, 2, "ascending"), (500, 0, "collapsed")])
@pytest.mark.parametrize("k", [2, 9])
def test_blocks_of_products_and_the_kernels_counts(rows: int, span: int, order: str, k: int):
    data = inputs(rows, span, order)
    expected = answers(*data, k)
    with like_a_gpu():
        assert_equal(answers(*data, k), expected)
