"""Sessions that two datasets share, against a plain recount."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.overlap import shared_sessions
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore

Sessions = Mapping[str, Sequence[str]]
"""The tracks of each session."""
logs = st.dictionaries(st.sampled_from("uvwxyz"), st.text("abc", min_size=3, max_size=6), min_size=1)


def prepared(folder: Path, name: str, sessions: Sessions) -> SessionStore:
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session_id", "session_position", "track_id_clean"])
        for session, tracks in sessions.items():
            writer.writerows([session, place, f"t{track}"] for place, track in enumerate(tracks))
    given = None if name == "all" else folder / "all"
    prepare(PrepareConfig(input=(folder / f"{name}.csv",), output=folder / name, vocabulary=given))
    return SessionStore(str(folder / name))


def shared(one: tuple[str, str], other: tuple[str, str]) -> bool:
    (session, tracks), (session_too, others) = one, other
    return tracks == others or (session == session_too and (tracks in others or others in tracks))


@settings(max_examples=25, deadline=None)
@given(measured=logs, trained=logs)
@example(measured={"u": "abc"}, trained={"u": "cabca"})
@example(measured={"u": "cabca"}, trained={"u": "abc"})
@example(measured={"u": "abc"}, trained={"v": "cabca"})
@example(measured={"u": "abc", "v": "abc"}, trained={"w": "abc"})
def test_sessions_are_shared_by_tracks_or_by_id_and_a_part(measured: Sessions, trained: Sessions):
    with tempfile.TemporaryDirectory() as name:
        prepared(Path(name), "all", {"s": "abc"})
        stores = [prepared(Path(name), which, log) for which, log in (("m", measured), ("t", trained))]
        expected = sum(any(shared(one, other) for other in trained.items()) for one in measured.items())
        assert shared_sessions(*stores) == expected


def test_a_row_is_no_part_of_another_ones_number(tmp_path: Path):
    """Rows 1 and 11: as text the one is in the other."""
    prepared(tmp_path, "all", {"s": [f"{number}" for number in range(12)]})
    tracks = pq.read_table(tmp_path / "all" / "vocabulary.parquet")["track_id"].to_pylist()
    short, long = ([tracks[row].removeprefix("t") for row in rows] for rows in ((1, 2, 3), (11, 2, 3, 4)))
    assert shared_sessions(prepared(tmp_path, "x", {"u": short}), prepared(tmp_path, "y", {"u": long})) == 0


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    store = prepared(tmp_path, "all", {"s": "abc"})
    store.parts[0].write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"the sessions of .*all and .* cannot be compared .*: prepare them again"):
        shared_sessions(store, store)
