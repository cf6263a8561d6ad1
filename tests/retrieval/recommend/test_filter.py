"""Filters and the artists' cool-down, against a ranking of all tracks from which Python strikes what they forbid."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import skipwise
from skipwise.common.errors import UserError
from skipwise.retrieval.recommend.track_columns import TrackColumns
from skipwise.retrieval.recommend.track_filter import read_filter
from skipwise.retrieval.search import exact as exact_search
from tests.components.conftest import refused, run  # noqa: F401  a fixture
from tests.support.exports import write_made

TRACKS, DIM = 60, 8
IDS = [f"t_{row:02}" for row in range(TRACKS)]
ARTISTS = [f"Artist {row % 7}" if row % 5 else None for row in range(TRACKS)]
NAMES = {"artist": ARTISTS, "explicit": [str(row % 3 == 0).lower() for row in range(TRACKS)]}
LISTED = range(1, TRACKS, 2)
"""The rows that the table knows, in another order."""
TABLE: dict[str, dict[int, Any]] = {
    "year": {row: 1980 + row % 11 if row % 9 else None for row in LISTED},
    "territories": {row: [one for one in ("SE", "NO", "DK") if (row + ord(one[0])) % 4] for row in LISTED},
    "released": {row: datetime.date(2020, 1 + row % 12, 1) for row in LISTED},
    "live": {row: row % 4 == 1 for row in LISTED},
}
SESSION = ["t_07", "t_31", "t_12"]
NOTHING = "no track is left to recommend: --filter, --cool-down or the tracks of the session leave none"


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    rows_RD = np.random.default_rng(3).standard_normal((TRACKS, DIM))
    return write_made(tmp_path_factory.mktemp("filtered") / "out", IDS, rows_RD, parts=2, names=NAMES)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    order = [*LISTED][::-1]
    columns = {"track_id": [IDS[row] for row in order] + ["elsewhere"]}
    columns |= {name: [of[row] for row in order] + [of[1]] for name, of in TABLE.items()}
    file = tmp_path_factory.mktemp("rights") / "rights.parquet"
    pq.write_table(pa.table(columns), file)
    return file


@pytest.fixture(scope="module")
def recommender(export, table):
    return skipwise.load(export, tracks=table)


@pytest.fixture(scope="module")
def ranking(recommender) -> list[tuple[str, float]]:
    return recommender.recommend(SESSION, k=TRACKS)


def values_of(column: str, row: int) -> list[Any]:
    """What is known of a row."""
    if column == "track":
        return [IDS[row]]
    value = TABLE[column].get(row) if column in TABLE else NAMES[column][row]
    return value if isinstance(value, list) else [] if value is None else [value]


def meets(row: int, column: str, tests: dict[str, Any]) -> bool:
    known = values_of(column, row)
    said = {
        "in": lambda of: any(value in of for value in known),
        "not": lambda of: not any(value in of for value in known),
        "from": lambda of: any(value >= of for value in known),
        "to": lambda of: any(value <= of for value in known),
    }
    return all(said[test](of) for test, of in tests.items())


def expected(ranking, filter: dict[str, dict[str, Any]], k: int) -> list[tuple[str, float]]:
    rows = [(IDS.index(track), track, score) for track, score in ranking]
    return [(track, score) for row, track, score in rows if all(meets(row, name, of) for name, of in filter.items())][
        :k
    ]


VALUES = {
    "artist": some.sampled_from([*{*ARTISTS} - {None}, "Nobody"]),
    "explicit": some.sampled_from(["true", "false"]),
    "year": some.integers(1979, 1992),
    "territories": some.sampled_from(["SE", "NO", "DK", "FI"]),
    "live": some.booleans(),
    "track": some.sampled_from([*IDS, "elsewhere"]),
}


@some.composite
def filters(draw) -> dict[str, dict[str, Any]]:
    found = {}
    for column in draw(some.lists(some.sampled_from([*VALUES]), unique=True, max_size=3)):
        tests = some.sampled_from(["in", "not"] if column in ("live", "track") else ["in", "not", "from", "to"])
        found[column] = {
            test: draw(some.lists(VALUES[column], max_size=4)) if test in ("in", "not") else draw(VALUES[column])
            for test in draw(some.lists(tests, unique=True, min_size=1, max_size=2))
        }
    return found


@settings(max_examples=150, deadline=None)
@given(filters(), some.integers(1, 12), some.sampled_from([0.0, 1.0]))
def test_what_is_recommended_is_the_ranking_without_the_others(recommender, ranking, filter, k, share):
    """Whichever of the two ways the exact search goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "_TAKEN_SHARE", share)
        assert recommender.recommend(SESSION, k=k, filter=filter) == expected(ranking, filter, k)


def test_short_forms_flags_and_dates(recommender, ranking):
    found = recommender.recommend(SESSION, k=9, filter={"explicit": False, "territories": ["SE", "FI"]})
    assert found == expected(ranking, {"explicit": {"in": ["false"]}, "territories": {"in": ["SE", "FI"]}}, 9)
    days = {"from": datetime.date(2020, 4, 1), "to": datetime.date(2020, 8, 1)}
    found = recommender.recommend(SESSION, k=9, filter={"released": {name: str(day) for name, day in days.items()}})
    assert found == expected(ranking, {"released": days}, 9) and found
    assert recommender.recommend(SESSION, k=9, filter={"year": 1800}) == []


def test_columns_as_other_programs_write_them(export, tmp_path):
    """Numbers of four bytes, times with a zone, and text in Arrow's newer layout."""
    days = [datetime.datetime(2026, 11, 1 + row % 20, 12, tzinfo=datetime.UTC) for row in range(TRACKS)]
    columns = {
        "track_id": pa.array(IDS, pa.string_view()),
        "tempo": pa.array([row % 10 / 10 for row in range(TRACKS)], pa.float32()),
        "added": pa.array(days, pa.timestamp("us", "Europe/Stockholm")),
        "mood": pa.array([f"mood {row % 4}" for row in range(TRACKS)], pa.string_view()),
    }
    pq.write_table(pa.table(columns), tmp_path / "rights.parquet")
    recommender = skipwise.load(export, tracks=tmp_path / "rights.parquet")

    def rows(filter: dict[str, Any]) -> list[int]:
        found = recommender.recommend(SESSION, k=TRACKS, filter=filter, exclude="none")
        return sorted(IDS.index(track) for track, _ in found)

    assert rows({"tempo": 0.1}) == rows({"tempo": {"from": 0.1, "to": 0.1}}) == [*range(1, TRACKS, 10)]
    expected = [row for row in range(TRACKS) if 3 <= row % 20 < 9]
    for said in ("2026-11-04", "2026-11-04T12:00:00", "2026-11-04T12:00:00Z", "2026-11-04T13:00:00+01:00"):
        assert rows({"added": {"from": said, "to": "2026-11-10"}}) == expected
    assert rows({"mood": "mood 3"}) == [*range(3, TRACKS, 4)]


@pytest.mark.parametrize("plays", [1, 2, 50])
def test_cool_down(recommender, ranking, plays):
    heard = {ARTISTS[IDS.index(track)] for track in SESSION[-plays:]} - {None}
    assert heard
    left = [one for one in ranking if ARTISTS[IDS.index(one[0])] not in heard]
    assert recommender.recommend(SESSION, k=7, cool_down=plays) == left[:7]
    sessions, asked = [SESSION, ["t_05"], ["t_40", "t_08"]], {"cool_down": plays, "filter": {"explicit": "false"}}
    together = recommender.recommend(sessions, k=7, **asked)
    alone = [recommender.recommend(one, k=7, **asked) for one in sessions]
    assert [[track for track, _ in one] for one in together] == [[track for track, _ in one] for one in alone]


def test_artists_in_lists_of_the_table(export, tmp_path):
    artists = {"t_07": ["A"], "t_31": ["B", "C"], "t_12": ["D"], "t_20": ["C", "E"], "t_21": ["A"], "t_22": ["F"]}
    pq.write_table(pa.table({"track_id": [*artists], "artist": [*artists.values()]}), tmp_path / "artists.parquet")
    recommender = skipwise.load(export, tracks=tmp_path / "artists.parquet")
    found = [track for track, _ in recommender.recommend(SESSION, k=TRACKS, cool_down=2, exclude="none")]
    assert {*IDS} - {*found} == {"t_12", "t_31", "t_20"}
    found = recommender.recommend(SESSION, filter={"artist": ["F", "E"]}, exclude="none")
    assert {track for track, _ in found} == {"t_20", "t_22"}


def test_files_and_the_terminal_say_the_same(export, table, recommender, tmp_path, run):  # noqa: F811
    filter = {"territories": "NO", "artist": {"not": "Artist 2"}}
    options = ["--export", str(export), "--tracks", str(table), "--filter", json.dumps(filter), "--cool-down", "2"]
    ranked = recommender.recommend(SESSION, k=4, filter=filter, cool_down=2)
    said = run("recommend", *options, "--session", ",".join(SESSION), "-k", "4").said
    assert [word for word in said.split() if word in IDS] == [track for track, _ in ranked]
    pq.write_table(pa.table({"tracks": [SESSION]}), tmp_path / "in.parquet")
    files = ["--input", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out.parquet")]
    assert run("recommend", *options, *files, "-k", "4").code == 0
    assert pq.read_table(tmp_path / "out.parquet")["tracks"].to_pylist() == [[track for track, _ in ranked]]


def test_a_filter_that_nothing_passes_is_said(export, run):  # noqa: F811
    line = ["recommend", "--export", str(export), "--session", "t_01", "--filter", '{"artist": "nobody"}']
    done = run(*line)
    assert (done.code, done.said.strip()) == (0, NOTHING) and "rank" not in done.said


@pytest.mark.parametrize(
    ("filter", "said"),
    [
        ({"mood": "calm"}, "no column 'mood': they have track, artist, explicit, live, released, territories, year"),
        ({"year": "old"}, "'year' has ['old'], and the column holds numbers"),
        ({"live": 1}, "'live' has [1], and the column holds true or false"),
        ({"released": "soon"}, "'released' has ['soon']"),
        ({"track": {"from": "t_01"}}, "list track ids"),
        ({"year": {"from": [1, 2]}}, "give one value"),
        ({"year": {"above": 1}}, "expected a column and its value"),
        ({"year": None}, "expected text, a number, true or false"),
        ({"track": ["x"] * 10_001}, "at most 10,000 were expected"),
        ([1], "is no object"),
    ],
)
def test_refusals(recommender, filter, said):
    with pytest.raises(UserError) as refusal:
        recommender.recommend(SESSION, filter=filter)
    assert said in str(refusal.value)


def test_refused_command_lines(export, tmp_path, run):  # noqa: F811
    line = ["recommend", "--export", str(export), "--session", "t_01"]
    refused(run(*line, "--filter", "explicit=false"), "--filter 'explicit=false' is no JSON")
    refused(run(*line, "--filter", '{"artist": {"not": "A"}, "artist": {"not": "B"}}'), "'artist' stands twice")
    refused(run(*line, "--filter", '{"year": 1990}'), "no column 'year'", "--tracks")
    refused(run(*line, "--cool-down", "-1"), "cool_down -1 must lie in 0..10000")
    tables = {
        "no ids": ({"track": ["t_01"]}, "expected a Parquet file of track_id and other columns"),
        "others": ({"track_id": ["x"], "year": [1]}, "none of the export's 60 tracks"),
        "twice": ({"track_id": ["t_01", "t_01"], "year": [1, 2]}, "has 't_01' in two rows"),
        "null": ({"track_id": ["t_01", None], "year": [1, 2]}, "row 1 (counted from 0), has no track_id"),
        "struct": ({"track_id": ["t_01"], "of": [{"a": 1}]}, "column 'of' cannot be read"),
        "hash": ({"track_id": ["t_01"], "of": [2**53 + 1]}, "write whole numbers beyond 2^53 as text"),
    }
    for name, (columns, said) in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        refused(run(*line, "--tracks", str(tmp_path / f"{name}.parquet")), said)
    (tmp_path / "text.parquet").write_text("track_id\nt_01\n")
    refused(run(*line, "--tracks", str(tmp_path / "text.parquet")), "cannot be read")
    refused(run(*line, "--tracks", str(tmp_path / "nowhere.parquet")), "nowhere.parquet cannot be read")


def test_no_artist_no_cool_down(tmp_path):
    nameless = write_made(tmp_path / "out", IDS, np.eye(TRACKS, DIM))
    with pytest.raises(UserError, match="no column 'artist'"):
        skipwise.load(nameless).recommend(SESSION, cool_down=1)


def test_rows_of_a_condition_are_kept(recommender, monkeypatch):
    """A filter that comes again costs no look at its column."""
    columns = TrackColumns(recommender.tracks)
    asked = read_filter({"explicit": False, "artist": {"not": "Artist 1"}})
    first = columns.allowed(asked)
    monkeypatch.setattr(columns, "_column", None)
    assert np.array_equal(columns.allowed(asked).bits, first.bits)
