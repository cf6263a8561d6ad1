"""Who gets a spare row, who loses it, and who waits; by hand."""

from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.training.follow.arrivals import Arrivals
from skipwise.training.follow.config import StreamConfig
from skipwise.training.follow.spare_rows import WAITS, SpareRows


def admit(rows: SpareRows, part: int, **plays: int) -> tuple[dict[int, str], int]:
    return rows.admit(part, plays, {track: {"title": track.upper()} for track in plays})


def test_the_most_played_get_rows_first_and_each_row_goes_to_one_track():
    rows = SpareRows(10, StreamConfig(spare_rows=3))
    assert rows.num_rows == 10
    assert admit(rows, 1, a=1, b=5) == ({10: "b", 11: "a"}, 0)
    assert admit(rows, 2, a=1, c=2, d=2, e=9) == ({12: "e"}, 2), "a row is taken away although it may not"
    assert rows.num_rows == 13 and rows.tracks["c"].row == WAITS


def test_plays_of_several_parts_count_for_admission():
    rows = SpareRows(10, StreamConfig(spare_rows=3, admit_plays=4))
    assert admit(rows, 1, a=3, b=4) == ({10: "b"}, 0)
    assert admit(rows, 2, b=1) == ({}, 0)
    assert admit(rows, 3, a=1) == ({11: "a"}, 0)


def test_the_row_unheard_for_longest_is_taken_away_and_of_those_the_least_played():
    rows = SpareRows(10, StreamConfig(spare_rows=4, evict_after=2))
    admit(rows, 1, a=9, b=5, c=4)
    admit(rows, 2, d=1, a=1)
    assert admit(rows, 3, e=3, f=1) == ({12: "e", 11: "f"}, 0), "c and b, heard in part 1 alone, c less often"
    assert admit(rows, 3, g=1) == ({}, 1), "a and d were heard in part 2"
    assert rows.num_rows == 14 and "c" not in rows.tracks
    assert admit(rows, 4, c=1)[0] == {13: "c"}, "d, as a has more plays; one that comes back begins anew"


def test_the_record_is_read_back_and_as_many_wait_as_there_are_rows(tmp_path: Path):
    rows = SpareRows(10, StreamConfig(spare_rows=2, admit_plays=2))
    admit(rows, 1, a=2, old=1)
    admit(rows, 2, b=1, c=1)
    assert set(rows.tracks) == {"a", "b", "c"}, "the last heard are kept"
    rows.write(tmp_path / "rows" / "1.parquet")
    again = SpareRows(10, StreamConfig(spare_rows=2))
    again.read(tmp_path / "rows" / "1.parquet")
    assert again.tracks == rows.tracks and again.tracks["a"].names == {"title": "A"}
    (tmp_path / "rows" / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1.parquet is no record of rows .*: restore the file"):
        again.read(tmp_path / "rows" / "1.parquet")


def test_a_folder_that_is_gone_is_said(tmp_path: Path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "run").mkdir()
    arrivals = Arrivals(str(tmp_path / "parts"), tmp_path / "run")
    assert arrivals.take(1) is None
    (tmp_path / "parts").rmdir()
    with pytest.raises(UserError, match="parts is no folder: make it"):
        arrivals.take(1)


def test_a_part_that_was_taken_must_stay_what_it_was(tmp_path: Path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="is no folder: make it"):
        Arrivals(str(tmp_path / "parts"), tmp_path / "run")
    for name in ("b", ".hidden", "c"):
        (tmp_path / "parts" / name).mkdir(parents=True)
        (tmp_path / "parts" / name / "manifest.json").touch()
    (tmp_path / "parts" / "a").mkdir()
    with pytest.raises(UserError, match="parts/b is one dataset directory: name the folder that it lies in"):
        Arrivals(str(tmp_path / "parts" / "b"), tmp_path / "run")
    arrivals = Arrivals(str(tmp_path / "parts"), tmp_path / "run")
    path = arrivals.take(1)
    assert path == str(tmp_path / "parts" / "b")
    arrivals.note(1, path, "0" * 64)
    arrivals.note(1, path, "0" * 64)
    with pytest.raises(UserError, match="b has other sessions than when the run took it as part 1"):
        arrivals.note(1, path, "1" * 64)
    (tmp_path / "parts" / "a" / "manifest.json").touch()
    assert arrivals.take(1) == path and arrivals.take(2) == str(tmp_path / "parts" / "a")
    arrivals.note(2, arrivals.take(2), "2" * 64)
    arrivals.note(3, arrivals.take(3), "3" * 64)
    assert arrivals.take(4) is None
