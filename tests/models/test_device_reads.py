"""What a step does on a GPU, on tensors without values: whatever would read one from the device fails here."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.signals import Signals
from skipwise.datapipes.view import View
from skipwise.models.config import EncoderConfig, LossConfig
from skipwise.models.encoder import Encoder
from skipwise.models.task import Learner

TRACKS, DIM, LENGTH, SESSIONS = 200, 8, 12, 5
CASES = {
    "shared": (LossConfig(), {}, {}),
    "per-session": (LossConfig(), {"sampling": "per-session"}, {}),
    "cloze": (
        LossConfig(context="output", mask_repeats=True),
        {"mask_probability": 0.3},
        {"direction": "bidirectional"},
    ),
    "best": (
        LossConfig(in_batch=True, keep=1.0, keep_dim=4),
        {"log_q": np.full(TRACKS, -np.log(TRACKS), np.float32), "judge": True, "profile": 3},
        {"positions": "relative", "norm_first": True},
    ),
    "hstu": (LossConfig(head="gbce"), {}, {"kind": "hstu", "positions": "relative", "times": True}),
    "gru": (LossConfig(hardest=3), {}, {"kind": "gru", "positions": "none"}),
    "lent skips": (LossConfig(), {"borrow_from": 5}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_reads_nothing_from_the_device(name: str, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device
    loss, given, encoder = CASES[name]
    random = np.random.default_rng(0)
    sessions = Sessions(
        random.integers(0, TRACKS, (SESSIONS, LENGTH)),
        random.integers(0, 4, (SESSIONS, LENGTH)).astype(np.int8),
        np.full(SESSIONS, LENGTH),
        np.arange(SESSIONS),
    )
    view = View(LENGTH, signals=Signals.of(("skips",), {}))
    options = {"sampling": "shared", "mask_probability": None} | given
    batch = TrainBuilder(0, view, LENGTH, TRACKS, 20, **options).build(sessions, 1, 0).to(torch.device("meta"))
    reads = True, 0.1, options.get("profile", 0)
    with torch.device("meta"):
        config = EncoderConfig(heads=2, hidden=16, max_length=LENGTH, **encoder)
        learner = Learner(
            Encoder(config, DIM, loss.keep_width, *reads), loss, None, TRACKS, signals=view.signals
        ).train()
        rows_UX = torch.empty(batch.tracks.stride(), DIM + loss.keep_width, requires_grad=True)
        signals_MD = torch.empty(view.signals.num_rows, DIM, requires_grad=True)
    total, _ = learner(rows_UX, batch, signals_MD)
    total.backward()
    assert rows_UX.grad is not None and rows_UX.grad.shape == rows_UX.shape
