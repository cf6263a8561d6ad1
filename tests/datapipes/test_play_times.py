"""How old tracks are at their plays, and groups of targets by it, by hand."""

import csv
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.groupings import groupings
from tests.studies.test_groupings import targets

AGE = "age of the target's track"


def write(folder: Path, rows: list[tuple]) -> Path:
    with (folder / "plays.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user", "track", "time"), *rows])
    return folder / "plays.csv"


@pytest.mark.parametrize("unit", [None, "ms", "5s"])
def test_ages_are_whole_hours_since_the_first_play_of_the_whole_log(tmp_path: Path, unit: str | None):
    """Plays of sessions that are left out count as well."""
    draw, start = random.Random(3), datetime(2026, 1, 1, tzinfo=UTC)
    plays, first = defaultdict(list), dict[str, datetime]()
    for user in range(40):
        when = start + timedelta(seconds=5 * draw.randint(0, 10**6))
        for _ in range(draw.choice([1, 2, 5, 30])):
            when += timedelta(seconds=5 * draw.choice([1, 40, 2000, 10**5]))
            track = f"t{draw.randint(0, 60)}"
            plays[f"u{user}"].append((track, when))
            first[track] = min(first.get(track, when), when)
    steps = {"ms": 0.001, "5s": 5}.get(unit or "")
    rows = [
        (user, track, int(when.timestamp() / steps) if steps else when.isoformat())
        for user, of in plays.items()
        for track, when in of
    ]
    log = write(tmp_path, rows)
    prepare(
        PrepareConfig(
            input=(log,), output=tmp_path / "data", session="user", track="track", order="time", sort=True,
            time_unit=unit, min_length=5, max_length=20,
        )
    )  # fmt: skip
    written = pq.read_table(tmp_path / "data" / "sessions").to_pylist()
    assert {one["session_id"] for one in written} == {user for user, of in plays.items() if len(of) >= 5}
    for one in written:
        of = plays[one["session_id"]][-20:]
        assert one["track_age"] == [int((when - first[track]).total_seconds() // 3600) for track, when in of]


def test_targets_by_the_age_of_their_tracks(tmp_path: Path):
    """Of each user the last play is the target: an hour, 2 days, 2 weeks, 8 weeks, half a year and 2 years behind the
    first play of its track, and one that nobody else plays."""
    start = datetime(2024, 1, 1)
    later = (timedelta(hours=1), timedelta(days=2), timedelta(weeks=2), timedelta(weeks=8), timedelta(days=183))
    rows = [("first", track, (start + timedelta(minutes=place)).isoformat()) for place, track in enumerate("abcxyz")]
    for number, after in enumerate((*later, timedelta(days=731)), 1):
        when = start + after
        tracks = ["x", "y", "a"] if number < 6 else ["x", "y", "never"]
        rows += [
            (f"u{number}", track, (when + timedelta(minutes=place)).isoformat()) for place, track in enumerate(tracks)
        ]
    rows += [
        ("v", track, (start + timedelta(days=800, minutes=place)).isoformat()) for place, track in enumerate("xyb")
    ]
    log = write(tmp_path, rows)
    prepare(
        PrepareConfig(input=(log,), output=tmp_path / "data", session="user", track="track", order="time", sort=True)
    )
    store = SessionStore(str(tmp_path / "data"))
    counts = np.ones(store.num_tracks, dtype=np.int64)
    vocabulary = pq.read_table(tmp_path / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    counts[vocabulary.index("never")] = 0
    ids = [one["session_id"] for one in pq.read_table(tmp_path / "data" / "sessions").to_pylist()]
    found = dict(zip(ids, groupings(store, counts)[AGE](targets(store, "last")).tolist(), strict=True))
    assert found == {
        "first": "1 under a day",
        "u1": "1 under a day",
        "u2": "2 under a week",
        "u3": "3 under 4 weeks",
        "u4": "4 under 13 weeks",
        "u5": "5 under a year",
        "u6": "0 not played in training",
        "v": "6 a year or more",
    }


def test_places_that_are_no_times_have_no_ages(tmp_path: Path):
    log = write(tmp_path, [("u", track, place) for place, track in enumerate("abcd")])
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", session="user", track="track", order="time"))
    assert pq.read_schema(tmp_path / "data" / "sessions" / "part-00000.parquet").names == [
        "session_id",
        "tracks",
        "skips",
    ]
    assert AGE not in groupings(SessionStore(str(tmp_path / "data")), np.ones(4))
