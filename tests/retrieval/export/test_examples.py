"""Sessions that an export holds for the page to start from."""

import pytest

from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.examples import example_sessions
from tests.conftest import write_dataset

TOLD = ([1, 2, 3, 4], [0, 2, 1, 0])
LONG = ([*range(20)], [2, *[0] * 18, 1])
REPEATED = ([5, 6, 5], [1, 0, 0])
KEPT = ([7, 8, 9], [0, 3, 0])
UNKNOWN = ([7, 8, 9], [-1, -1, -1])


def rows(plays) -> list[int]:
    return [play.row for play in plays]


def test_those_that_tell_most_come_first(tmp_path):
    """TOLD ends with a kept track that is new. Of LONG only the last plays are looked at, with a skip at their end."""
    write_dataset(tmp_path, [UNKNOWN, KEPT, REPEATED, LONG, TOLD], 30, group_size=9, parts=1)
    store = SessionStore(str(tmp_path))
    found = example_sessions(store, skip_up_to=2, count=9)
    assert rows(found[0]) == TOLD[0] and [play.skipped for play in found[0]] == [False, True, True, False]
    assert {tuple(rows(plays)) for plays in found[1:3]} == {tuple(range(10, 20)), (5, 6, 5)}
    assert rows(found[3]) == [7, 8, 9] and [play.skipped for play in found[3]] == [False] * 3
    assert [play.skipped for play in found[4]] == [None] * 3
    assert [rows(plays) for plays in example_sessions(store, 2, 2)] == [rows(plays) for plays in found[:2]]
    assert example_sessions(store, 2, 0) == []


def test_they_are_the_tests(tmp_path):
    sessions = [([row, row + 1, row + 2], [0, 1, 0]) for row in range(12)]
    write_dataset(tmp_path, sessions, 30, split={"test": 4, "train": 6, "validation": 2})
    found = example_sessions(SessionStore(str(tmp_path)), 2, 100)
    assert found and {plays[0].row for plays in found} <= {*range(4)}


def test_how_many(tmp_path):
    with pytest.raises(ValueError, match="--examples -1 must lie in 0..100"):
        ExportConfig("run", tmp_path, examples=-1)
    assert ExportConfig("run", tmp_path).examples == 5
