"""Both ways of counting on a card against the CPU's answers, and the Triton kernel against torch."""

import pytest
import torch

from skipwise.common.distributed import device
from skipwise.models import fused_summary, ranking
from tests.models.test_gpu_ranking import answers, assert_equal, inputs, slow_summary

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scores", [1 << 14, None])
@pytest.mark.parametrize(
    ("rows", "span", "order"), [(9000, 3, "mixed"), (9000, 2, "ascending"), (5000, 0, "collapsed")]
)
def test_a_card_ranks_as_the_cpu(
    rows: int, span: int, order: str, scores: int | None, fused: bool, monkeypatch: pytest.MonkeyPatch
):
    if scores:
        monkeypatch.setattr(ranking, "_GPU_PRODUCT_SCORES", scores)
        monkeypatch.setattr(ranking, "_GPU_BLOCK_SCORES", 3 * scores)
    if not fused:
        monkeypatch.setattr(ranking, "is_fused", lambda device: False)
    data = inputs(rows, span, order)
    assert_equal(answers(*(tensor.to(device()) for tensor in data), 9), answers(*data, 9))


@pytest.mark.parametrize("num_rows", [64 * 70, 64 * 69 + 1])
@pytest.mark.parametrize("goal", [1.0, float("nan"), float("inf"), float("-inf")])
def test_the_kernel_equals_torch(num_rows: int, goal: float):
    if not fused_summary.is_fused(device()):
        pytest.skip("needs Triton")
    scores_QB = torch.randint(-3, 4, (5, 64 * 75), device=device()).float()
    for value in (float("nan"), float("inf"), float("-inf")):
        scores_QB[torch.rand(scores_QB.shape, device=device()) < 0.01] = value
    scores_QB, goals_Q = scores_QB[:, : 64 * 70], torch.full((5,), goal, device=device())
    found = fused_summary.summarize(scores_QB, goals_Q, num_rows)
    for one, other in zip(found, slow_summary(scores_QB, goals_Q, num_rows), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
