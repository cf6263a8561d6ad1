"""Track ids by row and back, against a dictionary and a sorted list."""

from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skipwise.retrieval.track_ids import TrackIds

TEXTS = st.one_of(
    st.text(max_size=6),
    st.text("ab", max_size=5),
    st.integers(0, 300).map(lambda number: f"spotify:track:{number}"),
)
IDS = st.lists(TEXTS, min_size=1, max_size=30, unique=True)


@given(ids=IDS, asked=st.lists(TEXTS, max_size=20), prefix=TEXTS, large=st.booleans())
@example(ids=["", "a", "aa", "é", "\U0001f3b5", "\uffff"], asked=["", "aaa"], prefix="", large=False)
def test_like_a_dictionary(ids: list[str], asked: list[str], prefix: str, large: bool):
    kind = pa.large_string() if large else pa.string()
    tracks, rows = TrackIds(pa.array(ids, kind)), {track: row for row, track in enumerate(ids)}
    assert len(tracks) == len(ids)
    for track in [*ids, *asked, prefix]:
        assert tracks.row(track) == rows.get(track)
    both = asked + ids
    assert tracks.rows_of([*both, "\ud800"]) == [*(rows.get(track, -1) for track in both), -1]
    with patch("skipwise.retrieval.track_ids._hash", len):  # so many tracks have one hash
        assert TrackIds(pa.array(ids, kind)).rows_of([*both, "\ud800"]) == [*(rows.get(one, -1) for one in both), -1]
    assert tracks.rows(pa.array(both, kind)).tolist() == [rows.get(track, -1) for track in both]
    assert tracks.rows(pa.array(["x", *both], kind)[1:]).tolist() == [rows.get(track, -1) for track in both]
    for at_once in (1, 2, 100):
        found = list(tracks.starting_with(prefix, at_once))
        assert found == sorted(track for track in ids if track.startswith(prefix))
    picked = np.array([len(ids) - 1, -1, 0])
    assert tracks.ids(picked).to_pylist() == [ids[-1], None, ids[0]]
    assert tracks.near(prefix) in {None, *ids}


def test_order_is_that_of_the_text():
    """Beyond the basic plane, UTF-16 would order otherwise than UTF-8 and Python do."""
    ids = ["\U0001f3b5", "\uffff", "z", "Z", "é"]
    assert list(TrackIds(pa.array(ids)).starting_with("")) == sorted(ids)


def test_a_near_track():
    tracks = TrackIds(pa.array(["t_00017", "t_00018", "s_00017"]))
    assert tracks.near("t_0017") == "t_00017" and tracks.near("x") is None and tracks.near("t") is None


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (pa.array(["b", "a", "b"]), "the track 'b' has two rows"),
        (pa.array(["a", None]), "1 of its tracks have no id"),
        (pa.array([b"\xff"]).view(pa.string()), "(?i)utf"),
    ],
)
def test_ids_that_are_none(ids: pa.Array, words: str):
    with pytest.raises(ValueError, match=words):
        TrackIds(ids)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_texts_of_arrays_that_begin_further_on(kind: pa.DataType):
    ids, titles = [f"ü_{row}" for row in range(40)], ["", None, "é"] * 13 + ["x"]
    for first in (0, 3, 9):
        tracks = TrackIds(pa.array(ids, kind)[first:], {"title": pa.array(titles, kind)[first:]})
        rows = [*range(len(tracks)), 0]
        assert tracks.texts(rows) == [*ids[first:], ids[first]] and tracks.rows_of(ids[first:]) == rows[:-1]
        assert tracks.named_rows(rows) == [{"title": of} if of is not None else {} for of in titles[first:]] + [
            {"title": titles[first]} if titles[first] is not None else {}
        ]
