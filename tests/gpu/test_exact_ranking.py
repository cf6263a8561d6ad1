"""Full ranking and the best rows on the card against the CPU's: the same ranks and lists, ties included."""

import pytest
import torch
from torch import Tensor

from skipwise.common.distributed import device
from skipwise.models.config import row_block
from skipwise.models.ranking import candidate_counts, candidate_scores, full_counts, full_target_scores, full_topk
from skipwise.models.topk import best_of

QUERIES, TRACKS, WIDTH = 37, 20_000, 16

pytestmark = pytest.mark.gpu


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, table, targets and rows heard, of whole numbers: their products are exact, and most scores tie."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-3, 4, (QUERIES, WIDTH), generator=generator).float()
    table = torch.randint(-3, 4, (TRACKS, WIDTH), generator=generator).float()
    target = torch.randint(TRACKS, (QUERIES,), generator=generator)
    heard = torch.stack([torch.randperm(TRACKS, generator=generator)[:9] for _ in range(QUERIES)])
    heard[::2, 5:] = -1
    return queries, table, target, heard


def results(queries: Tensor, table: Tensor, target: Tensor, heard: Tensor, blocks: int) -> list[Tensor]:
    """What evaluation and retrieval count and list, over so many blocks of rows as ranks would hold."""
    pieces = [row_block(len(table), number, blocks) for number in range(blocks)]
    pieces = [(first, table[first:last]) for first, last in pieces]
    scores = sum(full_target_scores(queries, target, *piece) for piece in pieces)
    counted = [full_counts(queries, scores, target, heard, *piece) for piece in pieces]
    counts = [sum(part[place][number] for part in counted) for place in (0, 1) for number in (0, 1)]
    candidates = torch.cat([target[:, None], heard.clamp(min=0)], dim=1)
    found = [candidate_scores(queries, candidates, *piece) for piece in pieces]
    own = sum(scores_QC[:, 0] for scores_QC, _ in found)
    counted = [candidate_counts(scores_QC[:, 1:], own, own_QC[:, 1:]) for scores_QC, own_QC in found]
    counts += [sum(part[number] for part in counted) for number in (0, 1)]
    best = [full_topk(queries, 50, heard, *piece) for piece in pieces]
    return [scores, *counts, *best_of(*(torch.cat(parts, dim=1) for parts in zip(*best, strict=True)), 50)]


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_the_same_ranks_and_lists_as_on_a_cpu(blocks: int, precision: torch.dtype):
    queries, table, target, heard = drawn(seed=blocks)
    expected = results(queries, table.to(precision), target, heard, blocks)
    assert expected[2].min() > 0, "no ties to tell apart"
    found = results(*(tensor.to(device()) for tensor in (queries, table.to(precision), target, heard)), blocks)
    for one, other in zip(found, expected, strict=True):
        assert one.device == device() and torch.equal(one.cpu(), other)


def test_broken_scores_count_and_are_listed_as_on_a_cpu():
    queries, table, target, heard = drawn(seed=5)
    table[[7, 300, 19_999]], queries[3] = float("nan"), float("nan")
    expected = results(queries, table, target, heard, 2)
    found = results(*(tensor.to(device()) for tensor in (queries, table, target, heard)), 2)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("queries", "dim"), [(1, 20), (37, 128), (512, 64), (512, 144)])
def test_equal_rows_score_equal_wherever_they_stand(queries: int, dim: int):
    """In any column of any block, whole or padded, and as a target: else rounding would break ties."""
    generator = torch.Generator().manual_seed(0)
    queries_QD = torch.randn(queries, dim, generator=generator).to(device())
    table_RD = torch.randn(20_000, dim, generator=generator)
    table_RD[torch.randperm(20_000, generator=generator)[:500]] = table_RD[0].clone()
    equal_E = (table_RD == table_RD[0]).all(dim=1).nonzero()[:, 0]
    target_Q = equal_E[torch.arange(queries) % len(equal_E)].to(device())
    table_RD, nothing_QX = table_RD.to(device()), torch.full((queries, 1), -1, device=device())
    scores_Q = full_target_scores(queries_QD, target_Q, 0, table_RD)
    torch.testing.assert_close(scores_Q, queries_QD @ table_RD[0], rtol=1e-4, atol=1e-3)
    fresh, heard = full_counts(queries_QD, scores_Q, target_Q, nothing_QX, 0, table_RD)
    # One more of 20,000 other rows may score the same by chance.
    others_Q = fresh.ties_Q - (len(equal_E) - 1)
    assert others_Q.min() == 0 and others_Q.max() <= 1 and not heard.ties_Q.any()


def test_scores_are_float32_products():
    generator = torch.Generator().manual_seed(0)
    queries_QD, table_RD = (torch.randn(rows, 128, generator=generator) for rows in (64, 5000))
    target_Q = torch.arange(64)
    scores_Q = full_target_scores(queries_QD.to(device()), target_Q.to(device()), 0, table_RD.to(device())).cpu()
    exact_Q = (queries_QD.double() * table_RD[:64].double()).sum(dim=1)
    lengths_Q = queries_QD.double().norm(dim=1) * table_RD[:64].double().norm(dim=1)
    assert ((scores_Q - exact_Q).abs() / lengths_Q).max() < 128 * 2.0**-24, "TF32 would be off by a hundred times that"
