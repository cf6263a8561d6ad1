"""Attention in groups of sessions and parts of their queries: the outputs and gradients of one dense computation."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skipwise.models import head_rows
from skipwise.models.attention import attend
from skipwise.models.head_rows import HeadRows

LENGTHS, HEADS, WIDTH = [3, 9, 0, 1, 9, 6, 2], 3, 4
LENGTH, DIM = max(LENGTHS) + 1, HEADS * WIDTH
REAL_BT = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
TOKENS_N = REAL_BT.flatten().nonzero().squeeze(1)


class Masks:
    """Dropout masks as they are drawn, part by part."""

    def __init__(self, share: float):
        self.share, self.drawn = share, []

    def __call__(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        if self.share:
            self.drawn.append((torch.rand(shape) >= self.share).float() / (1 - self.share))
        return self.drawn[-1] if self.share else None

    def dense(self, rows: HeadRows, causal: bool) -> Tensor:
        """[B, H, T, T] of those that were drawn, one elsewhere."""
        longest = max(LENGTH, *(group.length for group in rows.groups))
        kept_BHTT, drawn = torch.ones(len(LENGTHS), HEADS, longest, longest), iter(self.drawn)
        longest_first = sorted(range(len(LENGTHS)), key=lambda session: -LENGTHS[session])
        for group in rows.groups:
            members, longest_first = longest_first[: group.sessions], longest_first[group.sessions :]
            for queries, keys in group.parts(causal) if self.share else ():
                kept_BHTT[members, :, queries, keys] = next(drawn)
        return kept_BHTT[:, :, :LENGTH, :LENGTH]


def dense(projected_ND: Tensor, mask_HTT: Tensor, kept_BHTT: Tensor) -> Tensor:
    """[N, D], by padded sessions side by side."""
    padded_PX = torch.zeros(REAL_BT.numel(), 3 * DIM).index_copy(0, TOKENS_N, projected_ND)
    query, key, value = padded_PX.view(len(LENGTHS), LENGTH, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(2, 3) / WIDTH**0.5 + mask_HTT
    weights = scores.masked_fill(~REAL_BT[:, None, None], -1e9).softmax(dim=3) * kept_BHTT
    return (weights @ value).transpose(1, 2).reshape(-1, DIM)[TOKENS_N]


@pytest.mark.parametrize("most", [1, 60, 200, 1 << 18, None])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("biases", [0, 1, HEADS])
@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("shortest", [1, 16])
def test_equals_the_dense_computation(
    most: int | None, causal: bool, biases: int, share: float, shortest: int, monkeypatch
):
    """One query at a time, some, several sessions together, all; all sessions padded as on a GPU; and groups padded
    beyond the longest session."""
    monkeypatch.setattr(head_rows, "SCORES", most or 1)
    monkeypatch.setattr(head_rows, "SHORTEST", shortest)
    projected_ND = torch.randn(len(TOKENS_N), 3 * DIM, requires_grad=True)
    bias = torch.randn(max(biases, 1), LENGTH, LENGTH, requires_grad=biases > 0)
    mask_HTT = bias + (torch.full((LENGTH, LENGTH), -torch.inf).triu(1) if causal else 0)
    rows, masks = HeadRows.of(TOKENS_N, len(LENGTHS), LENGTH, HEADS, one_group=most is None), Masks(share)
    found = attend(projected_ND, rows, mask_HTT, causal, masks, HEADS)
    kept_BHTT = (
        masks.drawn[0].view(len(LENGTHS), HEADS, LENGTH, LENGTH)
        if share and most is None
        else masks.dense(rows, causal)
    )
    wanted = dense(projected_ND, mask_HTT, kept_BHTT)
    assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    inputs, weights = [projected_ND, bias] if biases else [projected_ND], torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, weights, retain_graph=True),
        torch.autograd.grad(wanted, inputs, weights),
        strict=True,
    ):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", [1, 60, 200, 1 << 18])
def test_no_part_has_more_scores_than_fit(most: int, monkeypatch):
    """But for one query of one session; longer sessions come first, and none twice."""
    monkeypatch.setattr(head_rows, "SCORES", most)
    monkeypatch.setattr(head_rows, "SHORTEST", 1)
    rows = HeadRows.of(TOKENS_N, len(LENGTHS), LENGTH, HEADS)
    sizes = [
        group.sessions * HEADS * (queries.stop - queries.start) * group.length
        for group in rows.groups
        for queries, _ in group.parts(causal=False)
    ]
    assert max(sizes) <= max(most, HEADS * max(LENGTHS)) and max(sizes) <= rows.most_scores(HEADS)
    assert torch.cat([group.lengths_G for group in rows.groups]).tolist() == sorted(filter(None, LENGTHS))[::-1]
    assert all(group.length == group.lengths_G[0] for group in rows.groups)
