"""Sessions that repeat tracks: no track is both positive and negative of a position, under any head."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.view import View
from skipwise.models.heads import skip_infonce
from skipwise.models.in_batch import in_batch_pool

TRACKS = 30
PLAYS = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=0, max_size=8), min_size=1, max_size=4
).filter(any)
"""Sessions of (row, whether it is skipped) over four tracks."""


def test_two_repeats_worked_by_hand():
    """x, y skipped, x skipped, x kept, of x = (1, 0) and y = (0, 1), each at temperature 1, c = e.

    Position 0 (x) has the positive x: of the negatives y and x only y is left, at cosine 0: log((e + 1) / e).
    Position 1 (y) has the positive x: neither y nor x is left, so it does not count. Position 2 is as position 0.
    """
    x, y = [2.0, 0.0], [0.0, 3.0]
    items, rows = torch.tensor([[x, y, x, x]]), torch.tensor([[5, 7, 5, 5]])
    skipped, valid = torch.tensor([[False, True, True, False]]), torch.ones(1, 4, dtype=torch.bool)
    loss, counts = skip_infonce(None, items, skipped, valid, None, 1.0, rows_BT=rows)
    assert counts.tolist() == [[True, False, True, False]]
    value = math.log((math.e + 1) / math.e)
    assert_close(loss, torch.tensor([[value, 0.0, value, 0.0]]))


@settings(max_examples=150, deadline=None)
@given(plays=PLAYS, own_context=st.booleans(), lend=st.booleans(), kept=st.booleans(), seed=st.integers(0, 1000))
def test_infonce_masks_repeats_as_a_plain_loop_does(plays, own_context: bool, lend: bool, kept: bool, seed: int):
    """Loss, positions that count and gradients, for own and other sessions' skips."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(5, 4, generator=generator, requires_grad=True)
    width = max(map(len, plays))
    rows, skipped = torch.full((len(plays), width), 4), torch.zeros(len(plays), width, dtype=torch.bool)
    for number, session in enumerate(plays):
        for place, (row, skip) in enumerate(session):
            rows[number, place], skipped[number, place] = row, skip
    lenders = torch.randint(0, len(plays), (len(plays),), generator=generator) if lend else None
    context = None if own_context else torch.randn(len(plays), width, 4, generator=generator)
    queries = "kept" if kept else "all"
    loss, counts = skip_infonce(context, table[rows], skipped, rows < 4, lenders, 0.5, queries, rows)

    expected, defined = torch.zeros(len(plays), width), torch.zeros(len(plays), width, dtype=torch.bool)
    for number, session in enumerate(plays):
        lent = plays[number if lenders is None else lenders[number]]
        for place, (row, skip) in enumerate(session):
            later = [other for other, other_skip in session[place + 1 :] if not other_skip]
            never = {*later[:1], *([row] if own_context else [])}
            negatives = [other for other, other_skip in lent if other_skip and other not in never]
            if not later or not negatives or (kept and skip):
                continue
            query = table[row] if own_context else context[number, place]
            near = torch.cosine_similarity(query, table[[later[0], *negatives]], dim=1) / 0.5
            expected[number, place], defined[number, place] = -near.log_softmax(0)[0], True
    assert torch.equal(counts, defined)
    assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    if defined.any():
        (found,), (wanted,) = (torch.autograd.grad(one.sum(), table) for one in (loss, expected))
        assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def batch_of(plays, sampling: str, cloze: float | None) -> SessionBatch:
    length_B = np.array([len(session) for session in plays])
    tracks_BT = np.full((len(plays), length_B.max()), -1, dtype=np.int64)
    for number, session in enumerate(plays):
        tracks_BT[number, : len(session)] = [row for row, _ in session]
    log_q = np.log(np.full(TRACKS, 1 / TRACKS, dtype=np.float32))
    builder = TrainBuilder(0, View(5), 8, TRACKS, 20, sampling, cloze, held_out=0, log_q=log_q)
    return builder.build(Sessions(tracks_BT, tracks_BT * 0 + 1, length_B, np.arange(len(plays))), 1, 0)


@settings(max_examples=60, deadline=None)
@given(plays=PLAYS, sampling=st.sampled_from(["shared", "per-session"]), cloze=st.sampled_from([None, 0.4]))
def test_a_target_is_no_negative_of_the_next_track_heads(plays, sampling: str, cloze: float | None):
    batch = batch_of(plays, sampling, cloze)
    left_out = {tuple(pair) for pair in batch.collides_X2.tolist()}
    for session in range(len(plays)):
        first, last = batch.window_B2[session].tolist()
        met = {batch.negatives_P[place].item() for place in range(first, last) if (session, place) not in left_out}
        assert not met & {*batch.targets_BT[session].tolist(), *batch.items_BT[session].tolist()}
    if sampling == "shared":
        rows_U1 = torch.arange(len(batch.log_q_U))[:, None]
        bags_W1, bias_BW, _ = in_batch_pool(rows_U1, batch, TRACKS)
        for session in range(len(plays)):
            met = set(bags_W1[bias_BW[session] > -math.inf, 0].tolist())
            assert not met & set(batch.items_BT[session].tolist())
