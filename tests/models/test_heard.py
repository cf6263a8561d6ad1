"""Tracks heard before as negatives: a worked example, and the whole loss against a plain loop by autograd."""

import math
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
from skipwise.models.heard import heard_logits
from skipwise.models.task import Learner
from skipwise.training.build import build_model
from skipwise.training.config import RunConfig

TRACKS, DIM = 30, 8


def batch_of(plays: list[list[int]], sampling: str, cloze: float | None) -> SessionBatch:
    length_B = np.array([len(session) for session in plays])
    tracks_BT = np.full((len(plays), max(1, length_B.max())), -1, dtype=np.int64)
    for number, session in enumerate(plays):
        tracks_BT[number, : len(session)] = session
    builder = TrainBuilder(0, View(5), 9, TRACKS, 12, sampling, cloze, held_out=0)
    return builder.build(Sessions(tracks_BT, tracks_BT * 0, length_B, np.arange(len(plays))), 1, 0)


def test_three_positions_worked_by_hand():
    """The session x, y, x, z with all logits but x's, which is 2, at 0. From x to y: x is heard. From y to x: y.
    From the second x to z: x, once, and y."""
    batch = SimpleNamespace(
        items_BT=torch.tensor([[0, 1, 0, 2]]),
        masked_BT=torch.zeros(1, 4, dtype=torch.bool),
        targets_BT=torch.tensor([[1, 0, 2, 3]]),
        queries_V=torch.arange(3),
        tracks=SimpleNamespace(stride=lambda: 4),
    )
    rows = torch.tensor([[2.0], [0.0], [0.0], [0.0]])
    found = heard_logits(torch.ones(1, 4, 1), rows[batch.items_BT], batch, causal=True)
    assert_close(found, torch.tensor([2.0, 0.0, math.log(math.exp(2) + 1)]))


@settings(max_examples=120, deadline=None)
@given(
    plays=st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=4).filter(
        lambda plays: any(len(session) > 1 for session in plays)
    ),
    sampling=st.sampled_from(["shared", "per-session"]),
    cloze=st.sampled_from([None, 0.4]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_those_of_the_definition(plays, sampling: str, cloze: float | None, seed: int):
    batch = batch_of(plays, sampling, cloze)
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
    model = Learner(encoder, LossConfig("none", 0.0, 1.0), None, TRACKS, heard_negatives=True)
    loss, _ = model(rows_UD, batch)
    wanted = [table, *encoder.parameters()]
    found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)

    predictions = encoder.padded(rows_UD[batch.items_BT], batch.inputs_B, batch.masked_BT)
    items, masked = rows_of_bags[batch.items_BT].tolist(), batch.masked_BT.tolist()
    losses = []
    for session, place in (batch.targets_BT != len(lengths) - 1).nonzero().tolist():
        target = rows_of_bags[batch.targets_BT[session, place]].item()
        until = place + 1 if cloze is None else len(items[session])
        heard = {row for row, hidden in zip(items[session][:until], masked[session], strict=False) if not hidden}
        first, last = batch.window_B2[session].tolist()
        drawn = rows_of_bags[batch.negatives_P[first:last]].tolist()
        negatives = {row for row in drawn if row not in plays[session]} | heard - {target, TRACKS}
        logits = table[[target, *negatives]] @ predictions[session, place]
        losses.append(-logits.log_softmax(0)[0])
    expected = torch.stack(losses).mean()
    assert_close(loss, expected)
    for one, other in zip(found, torch.autograd.grad(expected, wanted, allow_unused=True), strict=True):
        zero = torch.zeros(())
        assert_close(zero if one is None else one, zero if other is None else other, rtol=1e-4, atol=1e-5)


def test_bf16_stays_near_float32():
    batch = batch_of([[0, 1, 2, 0, 3], [4, 4, 1]], "shared", None)
    encoder = Encoder(EncoderConfig(max_length=5, heads=2, hidden=8, dropout=0.0), DIM)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    rows = torch.randn(len(batch.tracks.lengths()), DIM) * batch.tracks.lengths()[:, None]
    kinds = None, torch.bfloat16
    exact, rough = (
        Learner(encoder, LossConfig(), kind, TRACKS, heard_negatives=True)(rows, batch)[0] for kind in kinds
    )
    assert exact != rough
    assert_close(rough, exact, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("loss", [{"in_batch": True}, {"head": "gbce"}])
def test_heads_that_it_does_not_fit_refuse_it(loss: dict):
    with pytest.raises(ValueError, match="--data.heard-negatives needs --loss.head softmax"):
        RunConfig(data=DataConfig(heard_negatives=True), loss=LossConfig(**loss))


def test_the_config_turns_it_on():
    with process_group():
        for name, on in (("heard-negatives", True), ("shared", False)):
            assert build_model(named_recipe(name), TRACKS).module.learner.heard_negatives == on
