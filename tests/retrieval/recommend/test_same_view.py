"""What evaluation feeds the model and what a recommendation feeds it are the same rows of the same session."""

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from skipwise.datapipes.collate_targets import EvaluationBuilder
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.view import View
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory

TRACKS = 30
plays = st.tuples(st.integers(0, TRACKS - 1), st.integers(0, 3))
sessions = st.lists(st.lists(plays, min_size=2, max_size=9), min_size=1, max_size=5)
views = st.builds(View, st.integers(1, 9), st.integers(1, 3), st.booleans())


def padded(found: list[list[tuple[int, int]]]) -> Sessions:
    width = max(map(len, found))
    tracks_BT, skips_BT = np.full((len(found), width), -1, dtype=np.int64), np.zeros((len(found), width), np.int8)
    for index, session in enumerate(found):
        tracks_BT[index, : len(session)], skips_BT[index, : len(session)] = zip(*session, strict=True)
    return Sessions(tracks_BT, skips_BT, np.array(list(map(len, found))), np.arange(len(found)))


def evaluated(found: list[list[tuple[int, int]]], view: View) -> list[list[int]]:
    """The rows that a batch of the test split reads of each session."""
    builder = EvaluationBuilder(0, view, 9, TRACKS, 1, len(found), 0, "rank", False)
    batch = builder.build(padded(found), 0, 0)[0].sessions
    rows = batch.tracks.values()
    counted = zip(batch.items_BT, batch.inputs_B.tolist(), strict=True)
    return [rows[bags_T[:count]].tolist() for bags_T, count in counted]


def recommended(history: SessionHistory, view: View) -> list[list[int]]:
    """The rows that the encoder is called with, from vectors that hold their own row."""
    asked = []

    def encoder(items_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        asked.extend(
            items_T[:count].long().tolist() for items_T, count in zip(items_BTD[..., 0], lengths_B, strict=True)
        )
        return torch.zeros(len(lengths_B), 1)

    rows = SimpleNamespace(take=lambda rows_N: rows_N[:, None].astype(np.float32), shape=(1, 1))
    Recommender(SimpleNamespace(view=view, vectors=rows, embeddings=rows, encoder=encoder, profile=0), None).outputs(
        history
    )
    return asked


@given(sessions, views)
def test_evaluation_and_serving_read_the_same_rows(found, view):
    past = [session[:-1] for session in found]
    history = SessionHistory.of(past)
    expected = [
        [row for row, strength in session if not (view.filter_skipped and 1 <= strength <= view.skip_up_to)]
        for session in past
    ]
    expected = [rows[-view.length :] for rows in expected]
    assert evaluated(found, view) == expected
    assert recommended(history, view) == expected
    rows_BS, strengths_BS = view.before(*_arrays(found))
    assert recommended(SessionHistory(rows_BS, strengths_BS), view) == expected


def _arrays(found: list[list[tuple[int, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch = padded(found)
    return batch.tracks_BT, batch.skips_BT, batch.length_B - 1


@given(sessions, views, st.integers(0, 3))
def test_flags_stay_with_their_rows(found, view, padding):
    batch = padded(found)
    inputs = view.read(*view.before(batch.tracks_BT, batch.skips_BT, batch.length_B), padding=padding)
    assert inputs.rows_BT.shape == (len(found), max(1, inputs.length_B.max() + padding))
    for session, rows_T, strengths_T, valid_T, length in zip(
        found, inputs.rows_BT, inputs.strengths_BT, inputs.valid_BT, inputs.length_B, strict=True
    ):
        read = [play for play in session if not (view.filter_skipped and 1 <= play[1] <= view.skip_up_to)]
        assert list(zip(rows_T[:length].tolist(), strengths_T[:length].tolist(), strict=True)) == read[-view.length :]
        assert valid_T.sum() == length and (rows_T[length:] == -1).all() and not strengths_T[length:].any()
        assert valid_T[:length].all()


def test_no_plays_at_all():
    inputs = View(5).read(np.full((2, 0), -1), np.zeros((2, 0), dtype=np.int8))
    assert inputs.rows_BT.tolist() == [[-1], [-1]] and inputs.length_B.tolist() == [0, 0]
