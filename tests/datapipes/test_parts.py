"""The stores of train, validation and test: disjoint, complete, and numbered as in the whole dataset."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.counts import train_counts, transitions
from skipwise.datapipes.manifest import SPLITS, Manifest
from skipwise.datapipes.session_order import SessionOrder, pad
from skipwise.datapipes.sessions import SessionStore
from tests.conftest import random_sessions, write_dataset

TRACKS = 30
sizes = st.fixed_dictionaries({split: st.integers(1, 20) for split in SPLITS})


def read_in_order(store: SessionStore) -> dict[int, list[int]]:
    """The sessions of an epoch's order by their numbers."""
    found = pad([SessionOrder(store, 3, 1, 2, 9).take(0, len(store))], len(store))
    rows = zip(found.number_B.tolist(), found.tracks_BT, found.length_B, strict=True)
    return {number: tracks[:length].tolist() for number, tracks, length in rows}


@settings(max_examples=25, deadline=None)
@given(split=sizes, group_size=st.integers(1, 6), parts=st.integers(1, 3))
def test_parts_are_disjoint_complete_and_keep_their_numbers(split, group_size, parts, tmp_path_factory):
    sessions = random_sessions(sum(split.values()), TRACKS)
    folder = tmp_path_factory.mktemp("parts") / "data"
    store = SessionStore(str(write_dataset(folder, sessions, TRACKS, group_size, parts, split)))
    assert store.unseen and len(store) == len(sessions)
    found = {name: read_in_order(store.part(name)) for name in SPLITS}
    assert {name: len(of) for name, of in found.items()} == {name: len(store.part(name)) for name in SPLITS} == split
    numbers = sorted(number for of in found.values() for number in of)
    assert numbers == list(range(len(sessions)))
    assert all(tracks == sessions[number][0] for of in found.values() for number, tracks in of.items())
    for name in SPLITS:
        assert {file.name for file in store.part(name).parts} == {*store.manifest.split_parts[name]}
        again = store.part("test").part(name)
        assert read_in_order(again) == found[name] and again.unseen


@settings(max_examples=15, deadline=None)
@given(split=sizes, group_size=st.integers(1, 6))
def test_counts_of_a_part_hold_nothing_out(split, group_size, tmp_path_factory):
    sessions = random_sessions(sum(split.values()), TRACKS)
    folder = tmp_path_factory.mktemp("parts") / "data"
    part = SessionStore(str(write_dataset(folder, sessions, TRACKS, group_size, 2, split))).part("train")
    rows_of = [rows for rows, _ in sessions[split["test"] : split["test"] + split["train"]]]
    plays = Counter(row for rows in rows_of for row in rows)
    assert sum(train_counts(part, rank, 3, held_out=0) for rank in range(3)).tolist() == [
        plays[row] for row in range(TRACKS)
    ]
    pairs = Counter(pair for rows in rows_of for pair in zip(rows, rows[1:], strict=False))
    keys, counts = transitions(part, held_out=0)
    assert {(key // TRACKS, key % TRACKS): count for key, count in zip(keys, counts, strict=True)} == pairs


def test_a_dataset_split_by_position_has_all_sessions_in_each_part(make_dataset):
    store = SessionStore(str(make_dataset(random_sessions(9, TRACKS), TRACKS)))
    assert not store.unseen
    assert all(store.part(name) is store for name in SPLITS)


def test_a_damaged_part_is_named(make_dataset):
    data = make_dataset(random_sessions(30, TRACKS), TRACKS, split={"train": 10, "validation": 10, "test": 10})
    store = SessionStore(str(data))
    train = store.part("train").parts[0]
    train.write_bytes((data / "sessions" / "test-00000.parquet").read_bytes()[:-9])
    assert read_in_order(store.part("validation")).keys() == set(range(20, 30))
    with pytest.raises(UserError, match="train-00000.parquet, row group 0"):
        store.part("train").read(np.arange(1))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"train": ["a", "b"], "validation": ["c"], "test": []}, "that do not divide its parts"),
        ({"train": ["a"], "validation": ["b"], "test": ["a", "c"]}, "that do not divide its parts"),
        ({"train": ["a", "b", "c"]}, "that do not divide its parts into train, validation, test"),
        ({"train": ["a"], "validation": ["b"], "test": ["c"]}, "has split_counts of other splits"),
        ({"train": ["a"], "validation": ["b"], "rest": ["c"]}, "split_parts has the key 'rest'"),
    ],
)
def test_a_manifest_whose_split_is_not_whole_is_refused(parts, says, make_dataset):
    data = make_dataset(random_sessions(9, TRACKS), TRACKS)
    manifest = Manifest.read(data)
    manifest.model_copy(update={"parts": {"a": 3, "b": 3, "c": 3}, "split_parts": parts}).write(data)
    with pytest.raises(UserError, match=says):
        Manifest.read(data)


def test_padding_is_no_row(make_dataset):
    """Neither after a session's end, nor in sessions that only fill up a lane."""
    store = SessionStore(str(make_dataset([([1, 0, 1], [1, 2, 3]), ([1, 0], [1, 1])], 2, group_size=2, parts=1)))
    block = pad([SessionOrder(store, 3, 1, 1, 9).take(0, 2)], 3)
    by_number = dict(zip(block.number_B.tolist(), block.tracks_BT.tolist(), strict=True))
    assert by_number == {0: [1, 0, 1], 1: [1, 0, -1], -1: [-1, -1, -1]}
    assert dict(zip(block.number_B.tolist(), block.length_B.tolist(), strict=True)) == {0: 3, 1: 2, -1: 0}
