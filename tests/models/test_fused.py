"""Attention of packed sessions in one kernel: what it is given, and on a GPU that it gives what our own does."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skipwise.models import fused
from skipwise.models.attention import attend
from skipwise.models.dropout import Dropout
from skipwise.models.head_rows import HeadRows
from skipwise.models.packed import Packed

LENGTHS, LENGTH, HEADS, WIDTH = [3, 9, 0, 1, 9, 6, 0], 10, 2, 8
TOKENS_N = (torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]).flatten().nonzero().squeeze(1)


def by_hand(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, length: int, share: float, causal: bool
) -> Tensor:
    """The kernel's output, one session after another."""
    assert share == 0 and length == LENGTH and starts.dtype == torch.int32
    outputs = []
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, v = (rows[0, first:last].transpose(0, 1) for rows in (query, key, value))
        scores = q @ k.transpose(1, 2) / WIDTH**0.5
        hidden = torch.ones(last - first, last - first, dtype=torch.bool).triu(1) & causal
        outputs.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)[None]


def masks(causal: bool, device: str = "cpu") -> Tensor:
    hidden = torch.full((LENGTH, LENGTH), -torch.inf).triu(1) if causal else torch.zeros(LENGTH, LENGTH)
    return hidden[None].to(device)


@pytest.mark.parametrize("causal", [True, False])
def test_is_given_each_session_by_itself(causal: bool, monkeypatch):
    monkeypatch.setattr(fused, "takes", lambda *_: True)
    monkeypatch.setattr(fused, "_kernel", by_hand)
    projected = torch.randn(len(TOKENS_N), 3 * HEADS * WIDTH, requires_grad=True)
    places = Packed(len(LENGTHS), LENGTH, TOKENS_N)
    found = places.attend(projected, masks(causal), causal, Dropout(0.5).eval(), HEADS)
    rows = HeadRows.of(TOKENS_N, len(LENGTHS), LENGTH, HEADS)
    expected = attend(projected, rows, masks(causal), causal, None, HEADS)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(value, projected, weights)[0] for value in (found, expected))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_bias_of_each_head_is_left_to_our_own(monkeypatch):
    monkeypatch.setattr(fused, "takes", lambda *_: True)
    monkeypatch.setattr(fused, "_kernel", None)
    places = Packed(len(LENGTHS), LENGTH, TOKENS_N)
    projected = torch.randn(len(TOKENS_N), 3 * HEADS * WIDTH)
    places.attend(projected, masks(True).expand(HEADS, -1, -1), True, None, HEADS)
    places.attend(projected, masks(True), True, None, HEADS, silu=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_shapes_without_values(dtype: torch.dtype, monkeypatch):
    """The kernel's own shapes, forward and backward; bfloat16 takes it at any length."""
    monkeypatch.setattr(fused, "_LONG", 1)
    projected = torch.empty(len(TOKENS_N), 3 * HEADS * WIDTH, dtype=dtype, device="meta", requires_grad=True)
    assert fused.takes(projected, HEADS, LENGTH)
    places = Packed(len(LENGTHS), LENGTH, TOKENS_N.to("meta"))
    found = places.attend(projected, masks(True, "meta"), True, Dropout(0.5).train(), HEADS)
    assert (found.shape, found.dtype) == ((len(TOKENS_N), HEADS * WIDTH), dtype)
    found.sum().backward()
    assert projected.grad is not None and projected.grad.shape == projected.shape


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_equals_our_own_on_a_gpu(dtype: torch.dtype, causal: bool, monkeypatch):
    """Also with sessions of no position at all; dropout keeps the mean."""
    monkeypatch.setattr(fused, "_LONG", 1)
    tokens = TOKENS_N.cuda()
    projected = torch.randn(len(tokens), 3 * HEADS * WIDTH, device="cuda", dtype=dtype, requires_grad=True)
    places, mask = Packed(len(LENGTHS), LENGTH, tokens), masks(causal, "cuda")
    found = places.attend(projected, mask, causal, None, HEADS)
    exact = projected.detach().float().requires_grad_()
    expected = attend(exact, HeadRows.of(tokens, len(LENGTHS), LENGTH, HEADS), mask, causal, None, HEADS)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    assert_close(found.float(), expected, **tolerance)
    weights = torch.randn_like(expected)
    (ours,) = torch.autograd.grad(found, projected, weights.to(dtype))
    (theirs,) = torch.autograd.grad(expected, exact, weights)
    assert_close(ours.float(), theirs, **tolerance)
    drawn = [places.attend(projected, mask, causal, Dropout(0.2).train(), HEADS).detach().float() for _ in range(2000)]
    assert_close(torch.stack(drawn).mean(0), expected.detach(), rtol=0.1, atol=0.1)
