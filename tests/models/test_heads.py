"""The losses against worked numbers, full softmax, binary cross-entropy and a plain loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from skipwise.models import head_rows, heads
from skipwise.models.config import LossConfig
from skipwise.models.heads import next_kept, sampled_softmax, skip_infonce
from skipwise.models.pool import gbce_head
from tests.support.losses import gbce

OWN = torch.arange(1)


def test_sampled_softmax_over_every_track_is_the_full_softmax():
    generator = torch.Generator().manual_seed(0)
    queries, table = torch.randn(6, 8, generator=generator), torch.randn(40, 8, generator=generator)
    targets = torch.randint(0, 40, (6,), generator=generator)
    logits = queries @ table.T
    others = logits[torch.arange(40) != targets[:, None]].view(6, 39)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    assert_close(sampled_softmax(logits[torch.arange(6), targets], others), expected)


def test_sampled_softmax_leaves_a_masked_negative_out():
    target, negatives = torch.tensor([2.0]), torch.tensor([[1.0, 5.0]])
    masked = negatives.masked_fill(torch.tensor([[False, True]]), -math.inf)
    assert_close(sampled_softmax(target, masked), torch.tensor([math.log(1 + math.exp(-1.0))]))


def test_sampled_softmax_without_a_negative_left_is_zero_with_its_gradient():
    target, negatives = torch.tensor([2.0], requires_grad=True), torch.full((1, 3), -math.inf, requires_grad=True)
    loss = sampled_softmax(target, negatives)
    loss.sum().backward()
    assert loss.item() == 0
    assert target.grad.item() == 0 and negatives.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_gbce_worked_by_hand():
    """2 of 9 tracks, a = 2 / 8; with t = 0.5 the power is 1 - 0.5 * 0.75 = 0.625.

    Less log 2, the target's logit log 6 has the probability 3/4, the negatives' log 2 and log 2/3 have 1/2 and 1/4.
    """
    loss = gbce(torch.tensor([math.log(6)]), torch.tensor([[math.log(2), math.log(2 / 3)]]), tracks=9, calibration=0.5)
    expected = -(0.625 * math.log(3 / 4) + math.log(1 / 2) + math.log(3 / 4))
    assert_close(loss, torch.tensor([expected]))


@pytest.mark.parametrize(("count", "calibration"), [(5, 0.0), (39, 1.0)])
def test_gbce_is_plain_binary_cross_entropy_uncalibrated_or_over_every_track(count: int, calibration: float):
    logits = torch.randn(6, 1 + count, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1
    shifted = logits - math.log(count)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(shifted, labels, reduction="none").sum(dim=1)
    assert_close(gbce(logits[:, 0], logits[:, 1:], 40, calibration), expected)


def test_gbce_gives_a_masked_negative_no_loss_and_no_gradient():
    """K stays 2, for two were drawn: only the masked one's term is gone."""
    even = math.log(2)
    target, negatives = torch.tensor([even]), torch.tensor([[-math.inf, even]], requires_grad=True)
    loss = gbce(target, negatives, tracks=3, calibration=1.0)
    loss.sum().backward()
    assert_close(loss.detach(), torch.tensor([2 * math.log(2)]))
    assert_close(negatives.grad, torch.tensor([[0.0, 0.5]]))


def test_gbce_starts_with_negatives_that_weigh_as_much_as_the_target():
    """At zero logits K sigmoids of -log K are K / (K + 1), as is the target's distance from 1 (power 1)."""
    target, logits = torch.zeros(3), torch.zeros(3, 1000)
    _, grad_target = gbce_head(1.0, 1000)(target, logits)
    assert_close(logits.sum(dim=1), -grad_target)
    assert_close(grad_target, torch.full((3,), -1000 / 1001))


def test_gbce_over_a_pool_with_the_target_left_out_is_not_over_calibrated():
    target, negatives = torch.tensor([1.0]), torch.tensor([[-math.inf, 0.5, 2.0]])
    assert_close(gbce(target, negatives, 3, calibration=1.0), gbce(target, negatives, 3, calibration=0.0))


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"head": "gbce", "in_batch": True}, "--loss.in-batch"),
        ({"log_q": "negatives"}, "--loss.in-batch"),
        ({"hardest": -1}, "--loss.hardest"),
        ({"hardest": 5, "head": "gbce"}, "--loss.head softmax"),
        ({"calibration": 1.5}, "--loss.calibration"),
        ({"calibration": -0.1}, "--loss.calibration"),
        ({"alpha": 0.0, "beta": 0.0}, "--loss.alpha"),
        ({"temperature": 0.0}, "--loss.temperature"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_by_its_flag(changes: dict, flag: str):
    with pytest.raises(ValueError, match=flag):
        LossConfig(**changes)


def test_next_kept_never_wraps_to_the_first_track():
    """The published code lets the last position's positive wrap around to the session's first track."""
    skipped = torch.tensor([[False, True, True, False, False]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert next_kept(skipped, valid).tolist() == [[3, 3, 3, 5, 5]]


def test_two_sessions_worked_by_hand():
    """Session 0 plays x, skips y, keeps x; session 1 keeps y and z and skips nothing, so it contributes nothing.

    With x = (1, 0), y = (0, 1) and temperature 1, c = e. Position 0 (x): positive x at cosine 1, negative y at 0:
    -log(e / (e + 1)). Position 1 (y): positive x at cosine 0, negative y itself at 1: -log(1 / (1 + e)).
    Position 2 has no later kept track and is dropped.
    """
    x, y, z = [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]
    items = torch.tensor([[x, y, x], [y, z, [0.0, 0.0]]])
    skipped = torch.tensor([[False, True, False], [False, False, False]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    loss, counts = skip_infonce(None, items, skipped, valid, None, temperature=1.0)
    assert counts.tolist() == [[True, True, False], [False, False, False]]
    e = math.e
    expected = [[-math.log(e / (e + 1)), -math.log(1 / (1 + e)), 0.0], [0.0, 0.0, 0.0]]
    assert_close(loss, torch.tensor(expected))


def test_skips_of_another_session_worked_by_hand():
    """Session 0 plays x, z and keeps both; session 1 keeps x and skips y. Each borrows the other's skips.

    Session 0 at position 0 (x): positive z at cosine 1 / sqrt 2, negative y of session 1 at 0. Session 1 would have
    no kept track to move on to, and meets no skips in session 0.
    """
    x, y, z = [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]
    items = torch.tensor([[x, z], [x, y]])
    skipped, valid = torch.tensor([[False, False], [False, True]]), torch.ones(2, 2, dtype=torch.bool)
    loss, counts = skip_infonce(items, items, skipped, valid, torch.tensor([1, 0]), temperature=1.0)
    assert counts.tolist() == [[True, False], [False, False]]
    positive = math.exp(math.sqrt(0.5))
    assert_close(loss, torch.tensor([[-math.log(positive / (positive + 1)), 0.0], [0.0, 0.0]]))


def test_the_temperature_divides_the_cosine():
    items = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    skipped, valid = torch.tensor([[False, True, False]]), torch.ones(1, 3, dtype=torch.bool)
    loss, _ = skip_infonce(items, items, skipped, valid, OWN, temperature=0.1)
    assert_close(loss[0, 0], torch.tensor(math.log(1 + math.exp(-10.0))))


def test_a_session_without_skips_sends_no_gradient_and_no_nan():
    items = torch.randn(1, 4, 8, requires_grad=True)
    nothing, valid = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    loss, counts = skip_infonce(None, items, nothing, valid, None, temperature=1.0)
    loss.sum().backward()
    assert not counts.any()
    assert_close(items.grad, torch.zeros_like(items))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sessions=st.integers(1, 4),
    length=st.integers(1, 7),
    own=st.booleans(),
    queries=st.sampled_from(["all", "kept"]),
)
def test_infonce_equals_a_plain_loop(seed: int, sessions: int, length: int, own: bool, queries: str):
    """The published code tiles negatives against other sessions; the loop meets the skips of the one session named."""
    generator = torch.Generator().manual_seed(seed)
    context, items = (torch.randn(sessions, length, 4, generator=generator) for _ in range(2))
    skipped = torch.rand(sessions, length, generator=generator) < 0.5
    lengths = torch.randint(0, length + 1, (sessions,), generator=generator)
    valid = torch.arange(length) < lengths[:, None]
    skipped &= valid
    lenders = torch.arange(sessions) if own else torch.randint(0, sessions, (sessions,), generator=generator)
    loss, counts = skip_infonce(context, items, skipped, valid, lenders, temperature=0.5, queries=queries)
    for session, lender in enumerate(lenders):
        negatives = [items[lender, place] for place in range(length) if skipped[lender, place]]
        for place in range(length):
            later = [j for j in range(place + 1, lengths[session]) if not skipped[session, j]]
            defined = place < lengths[session] and bool(later) and bool(negatives)
            defined &= queries == "all" or not skipped[session, place]
            assert bool(counts[session, place]) == defined
            if not defined:
                assert loss[session, place] == 0
                continue
            terms = [
                math.exp(torch.cosine_similarity(context[session, place], other, dim=0) / 0.5)
                for other in [items[session, later[0]], *negatives]
            ]
            assert_close(loss[session, place].item(), -math.log(terms[0] / sum(terms)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("queries", ["all", "kept"])
def test_infonce_in_groups_equals_all_sessions_at_once(context: bool, own: bool, queries: str, monkeypatch):
    """Its gradients too, with one session a group and with some; repeats are no negatives."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 0, 9, 1, 7, 9, 2])
    items = torch.randn(7, 9, 4, generator=generator, requires_grad=True)
    outputs = torch.randn(7, 9, 4, generator=generator, requires_grad=True) if context else None
    skipped, rows = torch.rand(7, 9, generator=generator) < 0.5, torch.randint(0, 12, (7, 9), generator=generator)
    valid = (torch.arange(9) < lengths[:, None]) & (torch.rand(7, 9, generator=generator) < 0.9)
    lenders = None if own else torch.tensor([2, 3, 0, 4, 1, 6, 5])
    found = []
    for most in (1 << 18, 1, 200):
        monkeypatch.setattr(head_rows, "SCORES", most)
        monkeypatch.setattr(heads, "SCORES", most)
        loss, counts = skip_infonce(outputs, items, skipped, valid, lenders, 0.5, queries, rows)
        inputs = [items, outputs] if context else [items]
        found.append([loss, counts, *torch.autograd.grad((loss * rows).sum(), inputs)])
    assert counts.any()
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
