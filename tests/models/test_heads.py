"""The two heads against worked numbers, full softmax and a plain loop."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from models.heads import next_kept, sampled_softmax, skip_infonce


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
    loss, counts = skip_infonce(items, items, skipped, valid, temperature=1.0)
    assert counts.tolist() == [[True, True, False], [False, False, False]]
    e = math.e
    expected = [[-math.log(e / (e + 1)), -math.log(1 / (1 + e)), 0.0], [0.0, 0.0, 0.0]]
    assert_close(loss, torch.tensor(expected))


def test_the_temperature_divides_the_cosine():
    items = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    skipped, valid = torch.tensor([[False, True, False]]), torch.ones(1, 3, dtype=torch.bool)
    loss, _ = skip_infonce(items, items, skipped, valid, temperature=0.1)
    assert_close(loss[0, 0], torch.tensor(math.log(1 + math.exp(-10.0))))


def test_a_session_without_skips_sends_no_gradient_and_no_nan():
    items = torch.randn(1, 4, 8, requires_grad=True)
    nothing, valid = torch.zeros(1, 4, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    loss, counts = skip_infonce(items, items, nothing, valid, temperature=1.0)
    loss.sum().backward()
    assert not counts.any()
    assert_close(items.grad, torch.zeros_like(items))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), sessions=st.integers(1, 4), length=st.integers(1, 7))
def test_infonce_equals_a_plain_loop_over_own_sessions(seed: int, sessions: int, length: int):
    """The published code tiles negatives against other sessions; the loop meets a session's own skips only."""
    generator = torch.Generator().manual_seed(seed)
    context, items = (torch.randn(sessions, length, 4, generator=generator) for _ in range(2))
    skipped = torch.rand(sessions, length, generator=generator) < 0.5
    lengths = torch.randint(0, length + 1, (sessions,), generator=generator)
    valid = torch.arange(length) < lengths[:, None]
    skipped &= valid
    loss, counts = skip_infonce(context, items, skipped, valid, temperature=0.5)
    for session in range(sessions):
        negatives = [place for place in range(length) if skipped[session, place]]
        for place in range(length):
            later = [j for j in range(place + 1, lengths[session]) if not skipped[session, j]]
            defined = place < lengths[session] and bool(later) and bool(negatives)
            assert bool(counts[session, place]) == defined
            if not defined:
                assert loss[session, place] == 0
                continue
            terms = [
                math.exp(torch.cosine_similarity(context[session, place], items[session, other], dim=0) / 0.5)
                for other in [later[0], *negatives]
            ]
            assert_close(loss[session, place].item(), -math.log(terms[0] / sum(terms)), rtol=1e-4, atol=1e-5)
