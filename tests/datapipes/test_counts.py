"""Plays and successive pairs of the training part against a plain count, whatever the row groups."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.counts import train_counts, transitions
from skipwise.datapipes.sessions import SessionStore
from tests.conftest import write_dataset

TRACKS = 7

lists_of_rows = st.lists(st.lists(st.integers(0, TRACKS - 1), min_size=2, max_size=9), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(rows_of=lists_of_rows, group_size=st.integers(1, 5), held_out=st.sampled_from(sorted(HELD_OUT.values())))
def test_counts_are_the_training_parts(rows_of: list, group_size: int, held_out: int, tmp_path_factory):
    sessions = [(rows, [0] * len(rows)) for rows in rows_of]
    folder = tmp_path_factory.mktemp("counts") / "data"
    store = SessionStore(str(write_dataset(folder, sessions, TRACKS, group_size, parts=1)))
    parts = [rows[:-held_out] for rows in rows_of]
    plays = Counter(row for rows in parts for row in rows)
    shares = [train_counts(store, rank, 3, held_out) for rank in range(3)]
    assert sum(shares).tolist() == [plays[row] for row in range(TRACKS)]
    pairs = Counter(pair for rows in parts for pair in zip(rows, rows[1:], strict=False))
    keys, counts = transitions(store, held_out)
    assert (np.diff(keys) > 0).all() and keys.dtype == counts.dtype == np.int64
    assert {(key // TRACKS, key % TRACKS): count for key, count in zip(keys, counts, strict=True)} == pairs


def test_keys_of_a_large_catalogue_do_not_overflow(make_dataset):
    tracks = 100_000
    last = tracks - 1
    keys, counts = transitions(SessionStore(str(make_dataset([([last, last, 0, 1], [0] * 4)], tracks, parts=1))))
    assert (keys.tolist(), counts.tolist()) == ([tracks * tracks - 1], [1])


@pytest.mark.parametrize("split", HELD_OUT)
def test_a_session_shorter_than_what_is_held_out_counts_nothing(split: str, make_dataset):
    store = SessionStore(str(make_dataset([([3], [0])], TRACKS, parts=1)))
    assert train_counts(store, held_out=HELD_OUT[split]).sum() == 0
    assert len(transitions(store, HELD_OUT[split])[0]) == 0


def test_by_default_one_rank_counts_all_but_the_last_two(make_dataset):
    sessions = [([0, 1, 2, 3], [0] * 4), ([4, 1, 2], [0] * 3), ([1, 1, 1, 5, 6], [0] * 5)]
    store = SessionStore(str(make_dataset(sessions, TRACKS, group_size=1)))
    assert train_counts(store).tolist() == [1, 4, 0, 0, 1, 0, 0]
