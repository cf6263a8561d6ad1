"""What a step costs and what it must not meet, on one batch made by the data pipe."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.loader import StepDataset
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import View
from skipwise.models.config import EncoderConfig, LossConfig
from skipwise.models.encoder import Encoder
from skipwise.models.heads import sampled_softmax, skip_infonce
from skipwise.models.task import Learner
from tests.conftest import random_sessions
from tests.support.losses import gbce

TRACKS, DIM, NEGATIVES = 50_000, 16, 20
LOG_Q = np.log(np.full(TRACKS, 1 / TRACKS, dtype=np.float32))
LOSSES = {
    "paper": LossConfig(),
    "gbce": LossConfig(head="gbce"),
    "mixed": LossConfig(in_batch=True),
    "exact": LossConfig(in_batch=True, log_q="negatives"),
    "hardest": LossConfig(hardest=5),
    "kept": LossConfig(queries="kept"),
}


def make_batch(
    path: Path, sampling: str = "shared", tracks: int = TRACKS, cloze: float | None = None, sessions: int = 8
):
    config = DataConfig(lanes=1, batch_size=sessions, negatives=NEGATIVES, workers=0)
    builder = TrainBuilder(0, View(12), 12, tracks, NEGATIVES, sampling, cloze, log_q=LOG_Q)
    return StepDataset(SessionStore(str(path)), config, builder, 0, 1)[1, 0]


def learner(
    loss: LossConfig,
    autocast: torch.dtype | None = None,
    tracks: int = TRACKS,
    direction: Literal["unidirectional", "bidirectional"] = "unidirectional",
) -> Learner:
    encoder = Encoder(EncoderConfig(direction, heads=2, hidden=16, dropout=0.0, max_length=12), DIM)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    return Learner(encoder, loss, autocast, tracks)


def looked_up(batch) -> torch.Tensor:
    """Rows as the table gives them: values for the bags that hold a track, zeros for the empty ones."""
    lengths = batch.tracks.lengths()
    rows = torch.randn(len(lengths), DIM, generator=torch.Generator().manual_seed(1))
    return (rows * lengths[:, None]).requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_keeps_no_tensor_as_wide_as_the_catalogue(make_dataset, name: str):
    """The published code builds all batch x length x catalogue logits and then picks its candidates from them."""
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda t: t):
        loss, _ = learner(LOSSES[name])(looked_up(batch), batch)
    loss.backward()
    assert max(kept) < TRACKS


def test_the_empty_bag_gets_no_gradient_and_the_parts_add_up(make_dataset):
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    rows = looked_up(batch)
    loss, parts = learner(LossConfig(alpha=0.25, beta=0.75))(rows, batch)
    loss.backward()
    torch.testing.assert_close(parts.total, 0.25 * parts.nce + 0.75 * parts.nll)
    torch.testing.assert_close(loss.detach(), parts.total)
    held = len(batch.tracks.values())
    assert rows.grad[:held].abs().sum() > 0
    unused = rows.grad[held:]
    assert unused.isfinite().all()


def test_the_skip_loss_takes_no_play_for_kept_of_which_it_is_not_known(make_dataset):
    """Where nothing is known there is nothing to contrast, and the other losses are as they were."""
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    model = learner(LossConfig(context="track", alpha=0.5, beta=1.0))
    _, before = model(looked_up(batch), batch)
    batch.known_BT, batch.skipped_BT = torch.zeros_like(batch.known_BT), torch.zeros_like(batch.skipped_BT)
    _, after = model(looked_up(batch), batch)
    assert before.nce > 0 and after.nce == 0 and before.nll == after.nll


def test_a_skip_blind_model_does_not_look_at_skips(make_dataset):
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    blind = learner(LossConfig(context="none", alpha=0.0, beta=1.0))
    before, _ = blind(looked_up(batch), batch)
    batch.skipped_BT = ~batch.skipped_BT
    after, parts = blind(looked_up(batch), batch)
    assert before == after and parts.nce == 0


def test_the_config_chooses_the_loss(make_dataset):
    """Each value differs from the paper's, and from the others."""
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    values = [learner(loss)(looked_up(batch), batch)[0].item() for loss in LOSSES.values()]
    values.append(learner(LossConfig(head="gbce", calibration=0.0))(looked_up(batch), batch)[0].item())
    values.append(learner(LossConfig())(looked_up(batch), replace(batch, skips_of_B=torch.arange(8).flip(0)))[0].item())
    assert len({round(value, 4) for value in values}) == len(values)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sessions", ["without skips", "without targets", "empty"])
def test_gradients_are_finite_where_there_is_little_to_learn(make_dataset, name: str, sessions: str):
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    empty = len(batch.tracks.lengths()) - 1
    if sessions == "without skips":
        batch.skipped_BT = torch.zeros_like(batch.skipped_BT)
    else:
        batch.targets_BT = torch.full_like(batch.targets_BT, empty)
        batch.queries_V = batch.queries_V[:0]
    if sessions == "empty":
        batch.items_BT, batch.inputs_B = torch.full_like(batch.items_BT, empty), torch.zeros_like(batch.inputs_B)
        batch.skipped_BT, batch.tokens_N = torch.zeros_like(batch.skipped_BT), batch.tokens_N[:0]
    rows, model = looked_up(batch), learner(LOSSES[name])
    loss, parts = model(rows, batch)
    loss.backward()
    assert loss.isfinite() and (parts.nll == 0) == (sessions != "without skips")
    assert (parts.nce > 0) == (sessions == "without targets")
    assert rows.grad.isfinite().all()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_stays_near_float32(make_dataset, name: str):
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    exact, _ = learner(LOSSES[name])(looked_up(batch), batch)
    rough, _ = learner(LOSSES[name], torch.bfloat16)(looked_up(batch), batch)
    assert rough.dtype == torch.float32 and exact != rough
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("sampling", ["shared", "per-session"])
@pytest.mark.parametrize("tracks", [NEGATIVES + 12, 90, TRACKS])
@pytest.mark.parametrize("head", ["softmax", "gbce"])
@pytest.mark.parametrize("cloze", [None, 0.2])
def test_losses_and_gradients_are_those_of_the_definition(make_dataset, sampling, tracks, head, cloze):
    """One position after the other, over padded sessions, by autograd: small catalogues, where pools come round."""
    batch = make_batch(make_dataset(random_sessions(11, tracks), tracks), sampling, tracks, cloze, sessions=11)
    repeats = head == "softmax"
    model = learner(
        LossConfig(head=head, mask_repeats=repeats, temperature=0.4, alpha=0.3, beta=0.6),
        None,
        tracks,
        "unidirectional" if cloze is None else "bidirectional",
    )
    for parameter in model.parameters():
        parameter.data.mul_(5)
    rows = looked_up(batch)
    loss, _ = model(rows, batch)
    loss.backward()
    found = [rows.grad, *(value.grad for value in model.parameters())]
    rows.grad = None
    model.zero_grad()
    items_BTD = rows[batch.items_BT]
    predictions_BTD = model.encoder.padded(items_BTD, batch.inputs_B, batch.masked_BT)
    losses = []
    for session, place in (batch.targets_BT != len(rows) - 1).nonzero().tolist():
        first, last = batch.window_B2[session].tolist()
        left_out = {there for where, there in batch.collides_X2.tolist() if where == session}
        negatives = batch.negatives_P[[there for there in range(first, last) if there not in left_out]]
        query_D = predictions_BTD[session, place]
        target_1 = rows[batch.targets_BT[session, place]] @ query_D[:, None]
        logits_1K = (rows[negatives] @ query_D)[None]
        if head == "softmax":
            losses.append(sampled_softmax(target_1, logits_1K))
        else:
            # What is left out counts among the negatives.
            nothing_1X = torch.full((1, NEGATIVES - len(negatives)), float("-inf"))
            losses.append(gbce(target_1, torch.cat([logits_1K, nothing_1X], dim=1), tracks, 0.75))
    nce_BT, counts_BT = skip_infonce(
        None,
        items_BTD,
        batch.skipped_BT,
        batch.items_BT != len(rows) - 1,
        None,
        0.4,
        rows_BT=batch.items_BT if repeats else None,
    )
    expected = 0.6 * torch.cat(losses).mean() + 0.3 * nce_BT.sum() / counts_BT.sum()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for one, other in zip(found, [rows.grad, *(value.grad for value in model.parameters())], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
