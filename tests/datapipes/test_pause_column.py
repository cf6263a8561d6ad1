"""The pause before each play, which `prepare --pause` keeps."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare import PrepareConfig, prepare

LOG = """user,track,time,skipped
a,x,2026-01-01 10:00:00,0
a,y,2026-01-01 10:00:01,1
a,z,2026-01-01 10:00:04,0
a,x,2026-01-01 10:03:04,0
a,y,2026-01-01 10:03:04,0
b,z,2026-01-01 09:00:00,0
b,x,2026-01-02 09:00:00,0
b,z,2026-01-02 09:02:40,0
b,y,2026-01-02 09:05:20,1
"""


def prepared(folder: Path, log: str = LOG, **options) -> tuple[dict[str, list], dict[str, list[str]]]:
    """What each session's plays say, and the values that training sees."""
    (folder / "plays.csv").write_text(log)
    columns = {"session": "user", "track": "track", "order": "time", "skip": "skipped", "pause": True} | options
    found = prepare(PrepareConfig(input=(folder / "plays.csv",), output=folder / "data", **columns))
    sessions = pq.read_table(folder / "data" / "sessions" / "part-00000.parquet").to_pylist()
    return {session["session_id"]: session["pause"] for session in sessions}, found.contexts


def test_pauses_are_logarithms(tmp_path: Path):
    """Of 1 more second: 0 s is 0, 1 s is 1, 3 s is 2, 180 s and 160 s are 7 (7.50, 7.33), a day is 16 (16.4)."""
    pauses, values = prepared(tmp_path, sort=True)
    assert pauses == {"a": [None, 1, 2, 7, 0], "b": [None, 16, 7, 7]}
    # Training sees all but each session's last two plays.
    assert values == {"pause": ["1", "16", "2"]}


def test_a_session_that_is_cut_begins_with_its_listeners_pause(tmp_path: Path):
    """Numbers in steps of 5 seconds with fractions: 4.2 steps are 21 s and 4 (4.46), 720 are an hour and 12 (11.8)."""
    log = "user,track,time,skipped\n" + "".join(f"a,{track},{time},0\n" for track, time in PLACES.items())
    pauses, _ = prepared(tmp_path, log, gap="30m", time_unit="5s")
    assert pauses == {"a#1": [None, 4, 0], "a#2": [12, 4, 4, 0]}


PLACES = {"p": "10", "q": "14.2", "r": "14.21", "s": "734.21", "t": "738.41", "u": "742.61", "v": "742.61"}


def test_what_has_no_times_is_refused(tmp_path: Path):
    log = "user,track,time,skipped\n" + "".join(f"a,{track},{place},0\n" for place, track in enumerate("xyz"))
    with pytest.raises(
        UserError, match="--pause needs times, and 'time' has numbers of no known unit: say it by --time"
    ):
        prepared(tmp_path, log)
    for options, message in (
        ({"order": "file"}, "--pause needs a column of times, and --order file is none"),
        ({"context": ("pause",)}, "--context pause and --pause are one column: leave one out"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared(tmp_path, **options)
    assert not (tmp_path / "data").exists()
