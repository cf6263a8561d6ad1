"""What a builder is shown of a session, worked by hand: its end, its skips by another rule, or nothing it skipped."""

import subprocess
import sys

import numpy as np
import pytest

from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.collate_targets import EvaluationBuilder
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.view import View

TRACKS = 50
ROWS = [[7, 3, 9, 4, 5, 8, 1], [4, 6, 1, 0]]
SKIPS = [[0, 1, 2, 3, 0, 1, 2], [1, 2, 1, 0]]


def sessions() -> Sessions:
    tracks_BT = np.full((3, 7), -1, dtype=np.int64)
    skips_BT = np.zeros((3, 7), dtype=np.int8)
    for index, (rows, skips) in enumerate(zip(ROWS, SKIPS, strict=True)):
        tracks_BT[index, : len(rows)], skips_BT[index, : len(rows)] = rows, skips
    return Sessions(tracks_BT, skips_BT, np.array([7, 4, 0]), np.array([10, 11, -1]))


def train(view: View, cloze: float | None = None, **options):
    return TrainBuilder(0, view, 7, TRACKS, 20, "shared", cloze, **options).build(sessions(), 1, 0)


def test_batch(view: View, append_mask: bool = False):
    (batch,) = EvaluationBuilder(0, view, 7, TRACKS, 1, 3, 10, "rank", append_mask).build(sessions(), 0, 0)
    return batch


test_batch.__test__ = False


def rows_at(batch, indices) -> list:
    rows = batch.tracks.values().tolist()
    return [[rows[bag] for bag in session if bag < len(rows)] for session in indices.tolist()]


def test_only_the_last_tracks_are_read():
    batch = train(View(3))
    assert rows_at(batch, batch.items_BT) == [[3, 9, 4, 5], [4, 6], []]
    assert rows_at(batch, batch.targets_BT) == [[9, 4, 5], [6], []]
    assert batch.inputs_B.tolist() == [3, 1, 0]
    assert batch.skipped_BT.tolist() == [[True, True, False, False], [True, True, False, False], [False] * 4]
    tested = test_batch(View(3))
    assert rows_at(tested.sessions, tested.sessions.items_BT) == [[4, 5, 8], [4, 6, 1], []]
    assert tested.target_B.tolist() == [1, 0, -1]
    assert tested.history_BS.tolist() == [[7, 3, 9, 4, 5, 8], [4, 6, 1, -1, -1, -1], [-1] * 6]


def test_cloze_reads_as_many_as_the_encoder_has_positions_and_leaves_one_for_the_mask():
    batch = train(View(3), 0.2)
    assert rows_at(batch, batch.items_BT) == [[9, 4, 5], [4, 6], []]
    tested = test_batch(View(3), append_mask=True)
    assert rows_at(tested.sessions, tested.sessions.items_BT) == [[5, 8], [6, 1], []]
    assert tested.sessions.inputs_B.tolist() == [3, 3, 0]
    assert tested.sessions.masked_BT.int().argmax(dim=1).tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("up_to", "skipped"),
    [(1, [[0, 1, 0, 0, 0], [1, 0]]), (2, [[0, 1, 1, 0, 0], [1, 1]]), (3, [[0, 1, 1, 1, 0], [1, 1]])],
)
def test_strengths_up_to_a_bound_count_as_skipped(up_to: int, skipped: list):
    batch = train(View(6, skip_up_to=up_to))
    assert batch.skipped_BT[0].int().tolist() == skipped[0]
    assert batch.skipped_BT[1].int().tolist() == skipped[1] + [0, 0, 0]


def test_filtered_tracks_are_never_read_yet_still_count_as_heard():
    batch = train(View(6, filter_skipped=True))
    assert rows_at(batch, batch.items_BT) == [[7, 4, 5], [], []]
    assert rows_at(batch, batch.targets_BT) == [[4, 5], [], []]
    assert not batch.skipped_BT.any()
    tested = test_batch(View(2, filter_skipped=True))
    assert rows_at(tested.sessions, tested.sessions.items_BT) == [[4, 5], [], []]
    assert tested.target_B.tolist() == [1, 0, -1], "the same targets as ever"
    assert tested.history_BS[0].tolist() == [7, 3, 9, 4, 5, 8]


def test_shuffled_flags_keep_each_sessions_number_and_stay_the_same_each_epoch():
    many = Sessions(
        np.tile(np.arange(20), (400, 1)),
        np.tile(np.array([1] * 6 + [0] * 14, dtype=np.int8), (400, 1)),
        np.full(400, 20),
        np.arange(400),
    )
    flags = [
        TrainBuilder(seed, View(20), 20, TRACKS, 20, "shared", None, shuffle_labels=True)
        .build(many, epoch, 0)
        .skipped_BT
        for seed, epoch in ((0, 1), (0, 2), (1, 1))
    ]
    assert (flags[0].sum(dim=1) == 6).all()
    assert (flags[0] == flags[1]).all() and (flags[0] != flags[2]).any()
    share_T = flags[0].double().mean(dim=0)
    assert share_T.shape == (18,) and (share_T - 6 / 18).abs().max() < 0.12, "any place is as likely as any other"


def test_borrowed_skips_are_the_next_sessions_of_the_group():
    four = sessions()
    twice = [np.concatenate([part, part]) for part in (four.tracks_BT, four.skips_BT, four.length_B)]
    four = Sessions(*twice, np.arange(6))
    builder = TrainBuilder(0, View(6), 7, TRACKS, 20, "shared", None, borrow_from=3)
    assert builder.build(four, 1, 0).skips_of_B.tolist() == [1, 2, 0, 4, 5, 3]
    assert not len(train(View(6)).skips_of_B)


def test_log_q_follows_the_bags():
    log_q = -np.arange(TRACKS, dtype=np.float32)
    batch = train(View(6), log_q=log_q)
    rows = batch.tracks.values()
    assert batch.log_q_U[: len(rows)].tolist() == (-rows.float()).tolist()
    assert not batch.log_q_U[len(rows) :].any()
    assert len(train(View(6)).log_q_U) == 0


def test_held_out_plays_keep_their_strength_and_position():
    batch = test_batch(View(6))
    assert batch.target_skips_B.tolist()[:2] == [2, 0]
    assert batch.position_B.tolist()[:2] == [6, 3]


def test_the_view_needs_neither_torch_nor_arrow():
    loaded = (
        "import sys, skipwise.datapipes.view; print([name for name in ('torch', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"
