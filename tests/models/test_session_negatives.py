"""Tracks heard and skipped as negatives: worked examples, and the whole loss against a plain loop by autograd."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from skipwise.common.distributed import process_group
from skipwise.components.recipes import named_recipe
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.view import View
from skipwise.models.config import EncoderConfig, LossConfig
from skipwise.models.encoder import Encoder
from skipwise.models.session_negatives import session_logits
from skipwise.models.task import Learner
from skipwise.training.build import build_model
from skipwise.training.config import RunConfig

TRACKS, DIM = 30, 8


def batch_of(
    plays: list[list[tuple[int, bool]]], sampling: str, cloze: float | None, targets: str = "next"
) -> SessionBatch:
    """`plays`: track and whether it was skipped."""
    length_B = np.array([len(session) for session in plays])
    tracks_BT = np.full((len(plays), max(1, length_B.max())), -1, dtype=np.int64)
    skips_BT = np.zeros_like(tracks_BT)
    for number, session in enumerate(plays):
        tracks_BT[number, : len(session)] = [track for track, _ in session]
        skips_BT[number, : len(session)] = [skipped for _, skipped in session]
    builder = TrainBuilder(0, View(5), 9, TRACKS, 12, sampling, cloze, held_out=0, targets=targets)
    return builder.build(Sessions(tracks_BT, skips_BT, length_B, np.arange(len(plays))), 1, 0)


def by_hand(tracks: list[int], skipped: list[int], targets: list[int]) -> SimpleNamespace:
    """One session of tracks 0 to 3, bag 4 being empty, with a target at each position but the last."""
    return SimpleNamespace(
        items_BT=torch.tensor([tracks]),
        skipped_BT=torch.tensor([skipped]).bool(),
        known_BT=torch.ones(1, len(tracks), dtype=torch.bool),
        masked_BT=torch.zeros(1, len(tracks), dtype=torch.bool),
        targets_BT=torch.tensor([[*targets, 4]]),
        queries_V=torch.arange(len(targets)),
        tracks=SimpleNamespace(stride=lambda: 5),
    )


def test_three_positions_worked_by_hand():
    """The session x, y, x, z with all logits but x's, which is 2, at 0. From x to y: x is heard. From y to x: y.
    From the second x to z: x, once, and y."""
    batch = by_hand([0, 1, 0, 2], [0, 0, 0, 0], [1, 0, 2])
    rows = torch.tensor([[2.0], [0.0], [0.0], [0.0], [0.0]])
    found = session_logits(torch.ones(1, 4, 1), rows[batch.items_BT], batch, causal=True, heard=True, skipped=0)
    assert_close(found, torch.tensor([2.0, 0.0, math.log(math.exp(2) + 1)]))


def test_tracks_skipped_before_the_target_worked_by_hand():
    """The session x, y, x, z, y, w skips y, the second x and the second y; x's logit is 2, y's 1, others are 0.

    From the first three to z: y and x, of which y and x were skipped. From z and y to w: y once, and x.
    """
    batch = by_hand([0, 1, 0, 2, 1, 3], [0, 1, 1, 0, 1, 0], [2, 2, 2, 3, 3])
    rows = torch.tensor([[2.0], [1.0], [0.0], [0.0], [0.0]])
    found = session_logits(torch.ones(1, 6, 1), rows[batch.items_BT], batch, causal=True, heard=False, skipped=1)
    assert_close(found, torch.full((5,), math.log(math.exp(2) + math.e)))
    weighed = session_logits(torch.ones(1, 6, 1), rows[batch.items_BT], batch, causal=True, heard=False, skipped=5)
    assert_close(weighed, found + math.log(5))


def test_a_play_that_may_have_been_skipped_is_no_next_kept_one():
    """x, y, z, w: z is skipped, and of y it is not known. So all before w wait for w, and have z as a negative."""
    batch = by_hand([0, 1, 2, 3], [0, 0, 1, 0], [3, 3, 3])
    batch.known_BT[0, 1] = False
    rows = torch.tensor([[2.0], [1.0], [0.5], [0.0], [0.0]])
    found = session_logits(torch.ones(1, 4, 1), rows[batch.items_BT], batch, causal=True, heard=False, skipped=1)
    assert_close(found, torch.tensor([0.5, 0.5, 0.5]))


def test_what_is_skipped_after_the_target_and_the_target_itself_are_no_negatives():
    """x, y, z, y, w: the second y and z are skipped. From x to y: none. From y and z to w: z, and y, which was kept
    before and skipped after. To a y that was skipped before, only z."""
    rows = torch.tensor([[2.0], [1.0], [0.5], [0.0], [0.0]])
    none = torch.finfo(torch.float32).min
    batch = by_hand([0, 1, 2, 1, 3], [0, 0, 1, 1, 0], [1, 3, 3, 3])
    found = session_logits(torch.ones(1, 5, 1), rows[batch.items_BT], batch, causal=True, heard=False, skipped=1)
    both = math.log(math.e + math.exp(0.5))
    assert_close(found, torch.tensor([none, both, both, both]))
    batch = by_hand([0, 1, 2, 1], [0, 1, 1, 0], [1, 1, 1])
    found = session_logits(torch.ones(1, 4, 1), rows[batch.items_BT], batch, causal=True, heard=False, skipped=1)
    assert_close(found, torch.tensor([0.5, 0.5, 0.5]))


PLAYS = st.lists(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=9), min_size=1, max_size=4)
KINDS = [
    (None, "next", True, 0.0),
    (0.4, "next", True, 0.0),
    (None, "next-kept", True, 0.0),
    (None, "next-kept", False, 1.0),
    (None, "next-kept", False, 7.5),
    (None, "next-kept", True, 0.5),
]
"""Cloze, targets, heard negatives, skipped negatives."""


@settings(max_examples=200, deadline=None)
@given(
    plays=PLAYS.filter(lambda plays: any(len(session) > 1 for session in plays)),
    sampling=st.sampled_from(["shared", "per-session"]),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_those_of_the_definition(plays, sampling: str, kind: tuple, seed: int):
    """Every negative by itself, as often as it counts; the target is never among them."""
    cloze, targets, heard_too, weight = kind
    batch = batch_of(plays, sampling, cloze, targets)
    generator = torch.Generator().manual_seed(seed)
    direction = "unidirectional" if cloze is None else "bidirectional"
    encoder = Encoder(EncoderConfig(direction, max_length=5, heads=2, hidden=8, dropout=0.0), DIM)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    table = torch.randn(TRACKS, DIM, generator=generator, requires_grad=True)
    lengths = batch.tracks.lengths()
    rows_of_bags = torch.cat([batch.tracks.values(), torch.full((int((lengths == 0).sum()),), TRACKS)])
    rows_UD = torch.cat([table, torch.zeros(1, DIM)])[rows_of_bags]
    model = Learner(encoder, LossConfig("none", 0.0, 1.0), None, TRACKS, heard_too, weight)
    loss, _ = model(rows_UD, batch)
    wanted = [table, *encoder.parameters()]
    found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)

    predictions = encoder.padded(rows_UD[batch.items_BT], batch.inputs_B, batch.masked_BT)
    items, masked = rows_of_bags[batch.items_BT].tolist(), batch.masked_BT.tolist()
    losses = []
    for session, place in (batch.targets_BT != len(lengths) - 1).nonzero().tolist():
        target = rows_of_bags[batch.targets_BT[session, place]].item()
        count: Counter[int] = Counter()
        first, last = batch.window_B2[session].tolist()
        drawn = {row for row in rows_of_bags[batch.negatives_P[first:last]].tolist()}
        count.update(drawn - {row for row, _ in plays[session]})
        if heard_too:
            until = place + 1 if cloze is None else len(items[session])
            count.update(
                {row for row, hidden in zip(items[session][:until], masked[session], strict=False) if not hidden}
            )
        if weight:
            known = list(zip(items[session], batch.skipped_BT[session].tolist(), strict=True))
            kept_at = next(at for at, (_, skipped) in enumerate(known) if at > place and not skipped)
            for row in {row for row, skipped in known[:kept_at] if skipped}:
                count[row] += weight
        for row in (target, TRACKS):
            count.pop(row, None)
        logits = table[[target, *count]] @ predictions[session, place]
        often = torch.tensor([1.0, *count.values()])
        losses.append((often * (logits - logits[0]).exp()).sum().log())
    expected = torch.stack(losses).mean() if losses else loss * 0
    assert_close(loss, expected)
    for one, other in zip(found, torch.autograd.grad(expected, wanted, allow_unused=True), strict=True):
        zero = torch.zeros(())
        assert_close(zero if one is None else one, zero if other is None else other, rtol=1e-4, atol=1e-5)


def test_bf16_stays_near_float32():
    plays = [[(0, False), (1, True), (2, False), (0, True), (3, False)], [(4, False), (4, True), (1, False)]]
    batch = batch_of(plays, "shared", None, "next-kept")
    encoder = Encoder(EncoderConfig(max_length=5, heads=2, hidden=8, dropout=0.0), DIM)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    rows = torch.randn(len(batch.tracks.lengths()), DIM) * batch.tracks.lengths()[:, None]
    kinds = None, torch.bfloat16
    exact, rough = (
        Learner(encoder, LossConfig(), kind, TRACKS, heard_negatives=True, skipped_negatives=3)(rows, batch)[0]
        for kind in kinds
    )
    assert exact != rough
    assert_close(rough, exact, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("loss", [{"in_batch": True}, {"head": "gbce"}])
@pytest.mark.parametrize("data", [{"heard_negatives": True}, {"skipped_negatives": 1.0, "targets": "next-kept"}])
def test_heads_that_they_do_not_fit_refuse_them(loss: dict, data: dict):
    flag = next(iter(data)).replace("_", "-")
    remedy = (
        "stands beside in-batch .* set --loss.log-q negatives" if "in_batch" in loss else "needs --loss.head softmax"
    )
    with pytest.raises(ValueError, match=f"--data.{flag} {remedy}"):
        RunConfig(data=DataConfig(**data), loss=LossConfig(**loss))
    if "in_batch" in loss:
        RunConfig(data=DataConfig(**data), loss=LossConfig(log_q="negatives", **loss))


def test_skipped_negatives_without_what_they_need_are_refused():
    for weight in (-1.0, 2e6, math.nan):
        with pytest.raises(ValueError, match="--data.skipped-negatives .* must lie in 0..1e"):
            DataConfig(skipped_negatives=weight, targets="next-kept")
    with pytest.raises(ValueError, match="set --data.targets next-kept"):
        DataConfig(skipped_negatives=1.0)
    with pytest.raises(ValueError, match="--data.skipped-tracks filter leaves no skips to .*--data.skipped-negatives"):
        RunConfig(data=DataConfig(skipped_negatives=1.0, targets="next-kept", skipped_tracks="filter"))


def test_the_config_turns_them_on():
    with process_group():
        for name, on in (
            ("heard-negatives", (True, 0.0)),
            ("skipped-negatives", (False, 1.0)),
            ("next-kept", (False, 0.0)),
        ):
            learner = build_model(named_recipe(name), TRACKS).module.learner
            assert (learner.heard_negatives, learner.skipped_negatives) == on
