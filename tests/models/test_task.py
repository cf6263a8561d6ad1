"""What a step costs and what it must not meet, on one batch made by the data pipe."""

from pathlib import Path

import torch

from datapipes.collate import TrainBuilder, View
from datapipes.pipe import DataConfig, StepDataset
from datapipes.sessions import SessionStore
from models.encoder import Encoder, EncoderConfig
from models.heads import LossConfig
from models.task import Learner
from tests.conftest import random_sessions

TRACKS, DIM, NEGATIVES = 50_000, 16, 20


def make_batch(path: Path):
    config = DataConfig(lanes=1, batch_size=8, negatives=NEGATIVES, workers=0)
    builder = TrainBuilder(0, View(12), 12, TRACKS, NEGATIVES, "shared", None)
    return StepDataset(SessionStore(str(path)), config, builder, 0, 1)[1, 0]


def learner(loss: LossConfig, autocast: torch.dtype | None = None) -> Learner:
    encoder = Encoder(EncoderConfig(heads=2, hidden=16, dropout=0.0, max_length=12), DIM)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    return Learner(encoder, loss, autocast)


def looked_up(batch) -> torch.Tensor:
    """Rows as the table gives them: values for the bags that hold a track, zeros for the empty ones."""
    lengths = batch.tracks.lengths()
    rows = torch.randn(len(lengths), DIM, generator=torch.Generator().manual_seed(1))
    return (rows * lengths[:, None]).requires_grad_()


def test_a_step_keeps_no_tensor_as_wide_as_the_catalogue(make_dataset):
    """The published code builds all batch x length x catalogue logits and then picks its candidates from them."""
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda t: t):
        loss, _ = learner(LossConfig())(looked_up(batch), batch)
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


def test_a_skip_blind_model_does_not_look_at_skips(make_dataset):
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    blind = learner(LossConfig(context="none", alpha=0.0, beta=1.0))
    before, _ = blind(looked_up(batch), batch)
    batch.skipped_BT = ~batch.skipped_BT
    after, parts = blind(looked_up(batch), batch)
    assert before == after and parts.nce == 0


def test_bf16_stays_near_float32(make_dataset):
    batch = make_batch(make_dataset(random_sessions(8, TRACKS), TRACKS))
    exact, _ = learner(LossConfig())(looked_up(batch), batch)
    rough, _ = learner(LossConfig(), torch.bfloat16)(looked_up(batch), batch)
    assert rough.dtype == torch.float32 and exact != rough
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0.01)
