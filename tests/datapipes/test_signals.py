"""What is read of a play beside its track, and what is learned of the next one's flag."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.datapipes.batch import SIGNAL_FEATURE, EvaluationBatch
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.collate_targets import EvaluationBuilder
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.signals import UNKNOWN, Signals
from skipwise.datapipes.view import View

TRACKS = 30
SKIPS = Signals.of(("skips",))
VIEW = View(6, signals=SKIPS)


def sessions(*plays: list[tuple[int, int]]) -> Sessions:
    """Of (track, strength) pairs."""
    length_B = np.array(list(map(len, plays)))
    tracks_BT = np.full((len(plays), max(1, length_B.max())), -1, dtype=np.int64)
    skips_BT = np.zeros(tracks_BT.shape, dtype=np.int8)
    for number, session in enumerate(plays):
        for place, (track, strength) in enumerate(session):
            tracks_BT[number, place], skips_BT[number, place] = track, strength
    return Sessions(tracks_BT, skips_BT, length_B, np.arange(len(plays)))


def built(data: Sessions, view: View = VIEW, cloze: float | None = None, **options):
    builder = TrainBuilder(0, view, 8, TRACKS, 12, "shared", cloze, held_out=0, judge=True, **options)
    return builder.build(data, 1, 0)


def test_rows_of_signals():
    """Kept and the three strengths have a row each, after the one of what is not known."""
    assert SKIPS.num_rows == 5 and Signals.of(()).num_rows == 0
    assert SKIPS.rows(np.array([[0, 1, 2, 3, UNKNOWN]]))[..., 0].tolist() == [[1, 2, 3, 4, 0]]


PLAYS = [(3, 0), (9, 1), (4, 2), (8, 3), (5, 0)]


def test_flags_of_past_plays_are_read_and_the_next_ones_learned():
    batch = built(sessions(PLAYS, [(7, 2)]))
    assert batch.tracks.keys() == ["track", SIGNAL_FEATURE]
    assert batch.tracks[SIGNAL_FEATURE].values().tolist() == list(range(5))
    assert batch.signals_BTC[0, :5, 0].tolist() == [1, 2, 3, 4, 1]
    row = batch.tracks["track"].values().tolist()
    assert batch.judged_J.tolist() == [0, 1, 2, 3], "a session of one play has no next one"
    assert [row[bag] for bag in batch.judged_tracks_J] == [9, 4, 8, 5]
    assert batch.judged_kept_J.tolist() == [0, 0, 1, 1]


def test_the_cloze_learns_the_hidden_tracks_own_flag():
    batch = built(sessions(*[PLAYS] * 40), cloze=0.4)
    row, masked = batch.tracks["track"].values().tolist(), batch.masked_BT.flatten().nonzero().squeeze(1)
    assert batch.judged_J.tolist() == masked.tolist()
    strength = dict(PLAYS)
    for bag, kept in zip(batch.judged_tracks_J.tolist(), batch.judged_kept_J.tolist(), strict=True):
        assert kept == (strength[row[bag]] in (0, 3))


def test_next_kept_targets():
    batch = built(sessions(PLAYS, [(1, 1), (2, 1)]), targets="next-kept")
    row, empty = batch.tracks["track"].values().tolist(), batch.tracks.stride() - 1
    found = [[None if bag == empty else row[bag] for bag in session] for session in batch.targets_BT.tolist()]
    assert found == [[8, 8, 8, 5, None], [None] * 5]
    assert batch.judged_kept_J.tolist() == [0, 0, 1, 1, 0], "the keep head still learns from the next track itself"


def test_what_is_not_known_is_neither_kept_nor_skipped():
    """No label for the keep head, no next kept track, no skipped one, and a row of its own among the inputs."""
    batch = built(sessions([(3, 0), (9, UNKNOWN), (4, 2), (8, UNKNOWN), (5, 0)]), targets="next-kept")
    row, empty = batch.tracks["track"].values().tolist(), batch.tracks.stride() - 1
    assert batch.signals_BTC[0, :5, 0].tolist() == [1, 0, 3, 0, 1]
    assert batch.judged_J.tolist() == [1, 3] and batch.judged_kept_J.tolist() == [0, 1]
    assert [row[bag] for bag in batch.judged_tracks_J] == [4, 5]
    assert batch.skipped_BT[0].tolist() == [False, False, True, False, False]
    assert batch.known_BT[0].tolist() == [True, False, True, False, True]
    assert [None if bag == empty else row[bag] for bag in batch.targets_BT[0].tolist()] == [5, 5, 5, 5, None]


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_controls_shuffle_what_they_say(inputs: bool, labels: bool):
    many = sessions(*[[(number, strength) for number, strength in enumerate([1] * 3 + [0] * 4)]] * 60)
    plain, batch = built(many), built(many, shuffle_inputs=inputs, shuffle_labels=labels)
    assert torch.equal(plain.signals_BTC, batch.signals_BTC) != inputs
    for name in ("skipped_BT", "judged_kept_J"):
        assert torch.equal(getattr(plain, name), getattr(batch, name)) != labels, name
    if inputs and labels:
        told = (batch.signals_BTC[..., 0] == 2) & (batch.items_BT != batch.tracks.stride() - 1)
        assert torch.equal(told, batch.skipped_BT), "both see the same wrong flags"


def test_a_share_of_sessions_hides_what_is_read():
    batch = built(sessions(*[PLAYS] * 2000), hidden_inputs=0.2)
    hidden = (batch.signals_BTC == 0).flatten(1)
    assert (hidden.any(dim=1) == hidden.all(dim=1)).all(), "all plays of a session or none"
    assert abs(hidden.any(dim=1).double().mean() - 0.2) < 0.03
    assert torch.equal(batch.judged_kept_J, built(sessions(*[PLAYS] * 2000)).judged_kept_J)


def test_more_signals_than_tracks_have_bags():
    batch = built(sessions([(0, 1), (1, 0)]), View(2, signals=SKIPS))
    assert batch.tracks.stride() >= SKIPS.num_rows + 1
    evaluation = EvaluationBuilder(0, View(1, signals=SKIPS), 2, 2, 1, 1, 0, "rank-tes", False)
    (tested,) = evaluation.build(sessions([(0, 1), (1, 0)]), 0, 0)
    assert tested.sessions.tracks.stride() == SKIPS.num_rows + 1
    assert tested.sessions.signals_BTC.tolist() == [[[2]]]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 3)), min_size=1, max_size=8), min_size=1, max_size=4
    ),
    st.sampled_from([1, 2, "all"]),
)
def test_upcoming_plays_end_with_the_next_kept_one(plays: list, targets):
    builder = EvaluationBuilder(0, View(4), 8, TRACKS, targets, 5, 0, "rank-tes", False)
    batches: list[EvaluationBatch] = builder.build(sessions(*plays), 0, 0)
    for batch in batches:
        for place, session in enumerate(batch.sessions.session_B.tolist()):
            upcoming = [row for row in batch.upcoming_BW[place].tolist() if row >= 0]
            if session < 0:
                assert not upcoming
                continue
            rest = plays[session][int(batch.position_B[place]) :]
            ends = [number for number, (_, strength) in enumerate(rest) if strength in (UNKNOWN, 0, 3)]
            paired = ends and ends[0] and rest[ends[0]][1] != UNKNOWN and targets == "all"
            assert upcoming == ([track for track, _ in rest[: ends[0] + 1]] if paired else [])
