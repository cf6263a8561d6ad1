"""One batch, worked by hand: what is predicted, what is cut off, what is never met as a negative."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.collate_targets import EvaluationBuilder
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.view import View

TRACKS = 50
ROWS = [[7, 3, 9, 3, 5, 8], [4, 6, 1], [2, 2]]
SKIPS = [[0, 1, 2, 3, 1, 2], [1, 0, 0], [0, 1]]


def sessions(width: int = 6) -> Sessions:
    """The three sessions above and an empty one that fills the batch."""
    tracks_BT = np.full((4, width), -1, dtype=np.int64)
    skips_BT = np.zeros((4, width), dtype=np.int8)
    for index, (rows, skips) in enumerate(zip(ROWS, SKIPS, strict=True)):
        tracks_BT[index, : len(rows)], skips_BT[index, : len(rows)] = rows, skips
    return Sessions(tracks_BT, skips_BT, np.array([6, 3, 2, 0]), np.array([10, 11, 12, -1]))


def builder(sampling: str = "shared", cloze: float | None = None, negatives: int = 20) -> TrainBuilder:
    return TrainBuilder(0, View(6), 6, TRACKS, negatives, sampling, cloze)


def rows_at(batch, indices) -> list:
    """Catalogue rows behind bag numbers; None for the empty bag."""
    rows = batch.tracks.values().tolist()
    return [[rows[bag] if bag < len(rows) else None for bag in session] for session in indices.tolist()]


def test_next_track_targets_without_the_two_held_out():
    batch = builder().build(sessions(), 1, 0)
    none = [None] * 4
    assert rows_at(batch, batch.items_BT) == [[7, 3, 9, 3], [4, None, None, None], none, none]
    assert rows_at(batch, batch.targets_BT) == [[3, 9, 3, None], none, none, none]
    assert batch.inputs_B.tolist() == [3, 0, 0, 0]
    assert batch.tokens_N.tolist() == batch.queries_V.tolist() == [0, 1, 2]
    assert batch.session_B.tolist() == [10, 11, 12, -1]
    assert not batch.masked_BT.any()


def test_skipped_is_strength_one_or_two_and_cut_with_its_track():
    batch = builder().build(sessions(), 1, 0)
    assert batch.skipped_BT.tolist() == [[False, True, True, False], [True, False, False, False]] + [[False] * 4] * 2


def met(batch, session: int) -> list[int]:
    """Rows of the negatives that a session is compared with."""
    first, last = batch.window_B2[session].tolist()
    left_out = [place for where, place in batch.collides_X2.tolist() if where == session]
    assert all(first <= place < last for place in left_out)
    places = [place for place in range(first, last) if place not in left_out]
    return batch.tracks.values()[batch.negatives_P[places]].tolist()


def test_shared_negatives_are_left_out_for_the_sessions_that_contain_them():
    batch = builder(negatives=40).build(sessions(), 1, 0)
    pool = batch.tracks.values()[batch.negatives_P].tolist()
    assert len(set(pool)) == 40
    for session, rows in enumerate(({7, 3, 9}, {4}, set(), set())):
        assert met(batch, session) == [row for row in pool if row not in rows]
    assert len(batch.collides_X2), "the example must contain a collision"


def test_shared_negatives_are_drawn_anew_each_step_and_are_equal_on_all_ranks():
    pools = {}
    for epoch, step in ((1, 0), (1, 1), (2, 0)):
        batch = builder().build(sessions(), epoch, step)
        pools[epoch, step] = tuple(batch.tracks.values()[batch.negatives_P].tolist())
    assert len(set(pools.values())) == 3
    part = sessions()
    other = Sessions(part.tracks_BT[2:], part.skips_BT[2:], part.length_B[2:], part.number_B[2:])
    batch = builder().build(other, 1, 0)
    assert tuple(batch.tracks.values()[batch.negatives_P].tolist()) == pools[1, 0]


def test_ranks_share_a_pool_of_in_batch_negatives():
    """Each of its tracks on one rank; as many bags on all, since a sharded lookup needs that."""
    whole = builder().build(sessions(), 1, 0)
    parts = [replace(builder(), pool_share=(rank, 3)).build(sessions(), 1, 0) for rank in range(3)]
    drawn = [part.tracks.values()[part.negatives_P].tolist() for part in parts]
    assert [len(rows) for rows in drawn] == [7, 7, 6]
    assert sorted(sum(drawn, [])) == sorted(whole.tracks.values()[whole.negatives_P].tolist())
    assert {part.negatives for part in parts} == {20}
    assert {part.tracks.stride() for part in parts} == {4 * 6 + 7 + 1}


@pytest.mark.parametrize("tracks", [TRACKS, 5000])
def test_a_sessions_own_negatives_avoid_it_and_are_the_same_on_any_rank(tracks: int):
    """In the small catalogue the pool of 4 * 64 + 40 places comes round five times."""
    whole = replace(builder("per-session", negatives=40), num_tracks=tracks)
    batch = whole.build(sessions(), 1, 0)
    drawn = [met(batch, session) for session in range(4)]
    for negatives, rows in zip(drawn, ({7, 3, 9}, {4}, set(), set()), strict=True):
        assert len(negatives) == len(set(negatives)) == 40 and not set(negatives) & rows
    assert len({tuple(negatives) for negatives in drawn}) == 4
    part = sessions()
    other = Sessions(part.tracks_BT[2:], part.skips_BT[2:], part.length_B[2:], part.number_B[2:])
    second_rank = replace(whole, first_place=2).build(other, 1, 0)
    assert [met(second_rank, session) for session in range(2)] == drawn[2:]
    assert met(whole.build(sessions(), 1, 1), 0) != drawn[0] != met(whole.build(sessions(), 2, 0), 0)


def test_each_sessions_own_negatives_are_uniform_over_what_it_does_not_contain():
    """Over 400 steps every other track is met as often as any: chi-square at 46, 48, 49 degrees of freedom < 100."""
    counts = np.zeros((3, TRACKS))
    for step in range(400):
        batch = builder("per-session", negatives=10).build(sessions(), 1, step)
        for session in range(3):
            counts[session, met(batch, session)] += 1
    for count, rows in zip(counts, ([7, 3, 9], [4], []), strict=True):
        others = np.delete(count, rows)
        assert count[rows].sum() == 0
        assert ((others - others.mean()) ** 2 / others.mean()).sum() < 100


def test_sessions_far_enough_apart_share_no_negative():
    many = Sessions(np.arange(16 * 6).reshape(16, 6), np.zeros((16, 6), dtype=np.int8), np.full(16, 6), np.arange(16))
    batch = replace(builder("per-session", negatives=100), num_tracks=10_000).build(many, 1, 0)
    drawn = [set(met(batch, session)) for session in range(16)]
    assert all(len(drawn[n] & drawn[n + 1]) in range(30, 40) for n in range(15)), "64 places on: 36 of 100 are left"
    assert not any(drawn[n] & drawn[n + 2] for n in range(14))


def test_a_batch_moves_whole():
    batch = builder().build(sessions(), 3, 4)
    moved = batch.to(torch.device("meta"))
    assert (moved.epoch, moved.step) == (3, 4)
    for name in (
        "items_BT",
        "skipped_BT",
        "known_BT",
        "inputs_B",
        "masked_BT",
        "targets_BT",
        "tokens_N",
        "queries_V",
        "negatives_P",
        "window_B2",
        "collides_X2",
        "skips_of_B",
        "log_q_U",
        "session_B",
    ):
        assert getattr(moved, name).is_meta and getattr(moved, name).shape == getattr(batch, name).shape
    assert moved.tracks.values().is_meta


def test_the_number_of_bags_never_changes():
    capacities = {
        len(builder().build(sessions(width), epoch, 0).tracks.lengths()) for epoch in range(3) for width in (6, 9)
    }
    assert capacities == {4 * 6 + 20 + 1}


def test_cloze_targets_are_the_masked_tracks_themselves():
    many = Sessions(
        np.tile(np.arange(20), (500, 1)), np.zeros((500, 20), dtype=np.int8), np.full(500, 20), np.arange(500)
    )
    batch = TrainBuilder(0, View(20), 20, TRACKS, 20, "shared", 0.2).build(many, 1, 0)
    masked = batch.masked_BT.numpy()
    assert 0.18 < masked.mean() < 0.22
    assert masked.any(axis=1).all(), "every session must predict something"
    empty = len(batch.tracks.lengths()) - 1
    targets = batch.targets_BT.numpy()
    assert np.array_equal(targets[masked], batch.items_BT.numpy()[masked])
    assert (targets[~masked] == empty).all()
    assert (batch.inputs_B == 18).all()


def evaluation(targets, append_mask: bool = False, candidates: int = 30, purpose: str = "rank-tes", size: int = 4):
    view = View(6 + append_mask)
    return EvaluationBuilder(0, view, 6, TRACKS, targets, size, candidates, purpose, append_mask)


@pytest.mark.parametrize(
    ("targets", "rows", "histories"),
    [
        (1, [8, 1, 2, -1], [[7, 3, 9, 3, 5], [4, 6], [2], []]),
        (2, [5, 6, -1, -1], [[7, 3, 9, 3], [4], [], []]),
    ],
)
def test_all_that_precedes_the_target_is_input(targets: int, rows: list, histories: list):
    (batch,) = evaluation(targets).build(sessions(), 0, 0)
    assert batch.target_B.tolist() == rows
    assert batch.position_B.tolist() == [len(history) for history in histories]
    assert [[row for row in rows if row >= 0] for rows in batch.history_BS.tolist()] == histories
    inputs = rows_at(batch.sessions, batch.sessions.items_BT)
    assert [[row for row in rows if row is not None] for rows in inputs] == histories
    assert batch.sessions.inputs_B.tolist() == [len(history) for history in histories]


def test_every_track_but_the_first_is_a_target_of_a_session_held_out_whole():
    """In batches of three; a session may go on in the next one."""
    batches = evaluation("all", size=3).build(sessions(), 0, 0)
    assert [batch.target_B.tolist() for batch in batches] == [[3, 9, 3], [5, 8, 6], [1, 2, -1]]
    assert [batch.sessions.session_B.tolist() for batch in batches] == [[10, 10, 10], [10, 10, 11], [11, 12, -1]]
    assert [batch.position_B.tolist() for batch in batches] == [[1, 2, 3], [4, 5, 1], [2, 1, 0]]
    assert [batch.target_skips_B.tolist()[: 3 - (batch is batches[2])] for batch in batches] == [
        [1, 2, 3],
        [1, 2, 0],
        [0, 1],
    ]
    assert [batch.repeated_B.tolist() for batch in batches] == [[False, False, True], [False] * 3, [False, True, False]]
    read = rows_at(batches[1].sessions, batches[1].sessions.items_BT)
    assert [[row for row in rows if row is not None] for rows in read] == [[7, 3, 9, 3], [7, 3, 9, 3, 5], [4]]
    assert batches[1].history_strengths_BS.tolist()[0] == [0, 1, 2, 3, 0], "5's skip is not yet known"
    candidates = [batch.candidates_BC for batch in batches]
    assert torch.equal(candidates[0][0], candidates[1][1]), "all targets of a session meet the same candidates"
    assert not torch.equal(candidates[1][1], candidates[1][2])


def test_an_emptied_batch_has_no_target():
    (batch,) = evaluation(1).build(sessions(), 0, 0)
    assert (batch.emptied().target_B == -1).all() and not batch.emptied().repeated_B.any()


def test_a_step_without_a_target_is_one_empty_batch():
    none = sessions()
    none.length_B[:] = 0
    (batch,) = evaluation("all").build(none, 0, 0)
    assert batch.target_B.tolist() == [-1] * 4 and (batch.sessions.session_B == -1).all()


def test_a_mask_is_appended_where_cloze_predicts():
    (batch,) = evaluation(1, append_mask=True).build(sessions(), 0, 0)
    assert batch.sessions.inputs_B.tolist() == [6, 3, 2, 0]
    assert [row.nonzero().flatten().tolist() for row in batch.sessions.masked_BT] == [[5], [2], [1], []]


def test_candidates_are_unseen_and_depend_on_nothing_but_seed_split_and_session():
    """The published code ranks each target among the other targets of its batch as well."""
    (together,) = evaluation(1).build(sessions(), 0, 0)
    part = sessions()
    alone = Sessions(part.tracks_BT[1:2], part.skips_BT[1:2], part.length_B[1:2], part.number_B[1:2])
    (single,) = evaluation(1).build(alone, 0, 3)
    assert together.candidates_BC[1].tolist() == single.candidates_BC[0].tolist()
    for session, rows in enumerate(ROWS):
        candidates = together.candidates_BC[session].tolist()
        assert len(set(candidates)) == 30 and not set(candidates) & set(rows)
    (other,) = evaluation(1, purpose="rank-val").build(sessions(), 0, 0)
    assert together.candidates_BC.tolist() != other.candidates_BC.tolist()


def test_the_pool_holds_the_windows_of_sessions_longer_than_a_stride():
    """Each of two sessions of 70 of 150 tracks meets 60 distinct others."""
    tracks_BT = np.stack([np.arange(70), np.arange(40, 110)])
    length_B = np.full(2, 70)
    long = Sessions(tracks_BT, np.zeros_like(tracks_BT, dtype=np.int8), length_B, np.arange(2))
    for step in range(20):
        batch = TrainBuilder(0, View(70), 70, 150, 60, "per-session", None, held_out=0).build(long, 1, step)
        assert batch.window_B2.max() <= len(batch.negatives_P)
        for session, own in enumerate(tracks_BT.tolist()):
            rows = met(batch, session)
            assert len(rows) == len({*rows}) == 60 and not {*rows} & {*own}


def test_a_target_heard_before_is_repeated_whatever_its_row():
    """Sessions 0 1 0, 1 0 2 and an empty one; the padding of a history is no row, nor is that of the targets."""
    tracks_BT = np.array([[0, 1, 0], [1, 0, 2], [-1, -1, -1]])
    given = Sessions(tracks_BT, np.zeros_like(tracks_BT, dtype=np.int8), np.array([3, 3, 0]), np.array([0, 1, -1]))
    evaluation = EvaluationBuilder(0, View(6), 3, TRACKS, 1, 3, 0, "rank-tes", False)
    (batch,) = evaluation.build(given, 0, 0)
    assert batch.target_B.tolist() == [0, 2, -1] and batch.repeated_B.tolist() == [True, False, False]
