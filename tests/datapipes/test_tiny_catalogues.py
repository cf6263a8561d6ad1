"""Catalogues smaller than the negatives asked for: a session meets all tracks that it does not contain."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from skipwise.common.distributed import process_group
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.negatives import own_windows
from skipwise.datapipes.sessions import Sessions, SessionStore
from skipwise.datapipes.view import View
from skipwise.models.config import EncoderConfig, LossConfig
from skipwise.models.encoder import Encoder
from skipwise.models.task import Learner
from skipwise.training.build import train_loader
from skipwise.training.checks import check
from skipwise.training.config import EvaluateConfig, RunConfig
from tests.conftest import random_sessions

WIDTH, DIM = 6, 8


def sessions_of(plays: list[list[int]]) -> Sessions:
    length_B = np.array([len(session) for session in plays])
    tracks_BT = np.full((len(plays), WIDTH), -1, dtype=np.int64)
    for number, session in enumerate(plays):
        tracks_BT[number, : len(session)] = session
    return Sessions(tracks_BT, np.ones_like(tracks_BT, dtype=np.int8) % 2, length_B, np.arange(len(plays)))


def met(batch: SessionBatch, session: int) -> list[int]:
    """Rows of the negatives that a session is compared with."""
    first, last = batch.window_B2[session].tolist()
    left_out = {place for where, place in batch.collides_X2.tolist() if where == session}
    assert last <= len(batch.negatives_P)
    places = [place for place in range(first, last) if place not in left_out]
    return batch.tracks.values()[batch.negatives_P[places]].tolist()


@st.composite
def catalogues(draw) -> tuple[int, list[list[int]]]:
    """One to five tracks, and sessions over them, empty ones and whole catalogues among them."""
    tracks = draw(st.integers(1, 5))
    plays = draw(st.lists(st.lists(st.integers(0, tracks - 1), max_size=WIDTH), min_size=1, max_size=4))
    return tracks, [list(range(tracks)), *plays]


@settings(max_examples=150, deadline=None)
@given(
    catalogue=catalogues(),
    asked=st.integers(1, 8),
    sampling=st.sampled_from(["shared", "per-session"]),
    cloze=st.sampled_from([None, 0.4]),
    heard=st.booleans(),
)
def test_a_session_meets_what_there_is(catalogue, asked: int, sampling: str, cloze: float | None, heard: bool):
    tracks, plays = catalogue
    count = min(asked, tracks)
    builder = TrainBuilder(0, View(4), WIDTH, tracks, count, sampling, cloze, held_out=0)
    batch = builder.build(sessions_of(plays), 1, 0)
    for session, rows in enumerate(plays):
        negatives, others = met(batch, session), set(range(tracks)) - set(rows)
        assert len(negatives) == len(set(negatives)) and set(negatives) <= others
        if sampling == "per-session":
            assert len(negatives) == min(count, len(others))
        elif count == tracks:
            assert set(negatives) == others

    direction = "unidirectional" if cloze is None else "bidirectional"
    encoder = Encoder(EncoderConfig(direction, max_length=4, heads=2, hidden=8, dropout=0.0), DIM)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    rows_UD = (torch.randn(len(batch.tracks.lengths()), DIM) * batch.tracks.lengths()[:, None]).requires_grad_()
    loss, parts = Learner(encoder, LossConfig(), None, tracks, heard)(rows_UD, batch)
    loss.backward()
    assert loss.isfinite() and rows_UD.grad.isfinite().all()
    assert all(value.grad is None or value.grad.isfinite().all() for value in encoder.parameters())
    if not heard and all(set(rows) == set(range(tracks)) for rows in plays if rows):
        assert parts.nll == 0


@settings(max_examples=100, deadline=None)
@given(catalogue=catalogues(), asked=st.integers(1, 8))
def test_no_session_takes_more_from_the_pool_than_it_holds(catalogue, asked: int):
    """Places as the pool of all sessions has them: each track's first."""
    tracks, plays = catalogue
    place = np.random.default_rng(asked).permutation(tracks)
    places_BS = np.full((len(plays), WIDTH), -1)
    for number, session in enumerate(plays):
        places_BS[number, : len(session)] = place[session]
    windows_B2, collides_X2 = own_windows(places_BS, asked, tracks)
    own_B = np.bincount(collides_X2[:, 0], minlength=len(plays))
    negatives_B = np.diff(windows_B2)[:, 0] - own_B
    assert negatives_B.tolist() == [min(asked, tracks - len(set(session))) for session in plays]


@pytest.mark.parametrize("sampling", ["shared", "per-session"])
def test_a_run_says_so_and_draws_all(sampling: str, make_dataset, capfd: pytest.CaptureFixture):
    store = SessionStore(str(make_dataset(random_sessions(8, 60), 60)))
    config = RunConfig(
        data=DataConfig(negatives=10**9, batch_size=8, lanes=1, workers=0, sampling=sampling),
        evaluate=EvaluateConfig(candidates=20),
    )
    with process_group():
        check(config, store)
        batch = train_loader(config, store).dataset[1, 0]
    said = f"--data.negatives 1000000000: {store.path} has 60 tracks to draw from, so a session may have"
    assert said in capfd.readouterr().err
    assert_close(batch.negatives_P.unique(), torch.arange(60))
