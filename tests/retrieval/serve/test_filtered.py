"""Filters over HTTP: what Python recommends with them, and rights that change while the service runs."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import skipwise
from skipwise.common.errors import UserError
from skipwise.retrieval.recommend.track_filter import read_filter
from skipwise.retrieval.serve.config import ServeConfig
from tests.retrieval.serve.conftest import NAMES, TRACKS, Asked, sentence

ARTISTS = [f"Artist {row % 11}" for row in range(TRACKS)]
SESSION = [("t_003", False), ("t_050", True), ("t_007", False)]


def write_rights(file: Path, explicit: int) -> Path:
    """Every `explicit`-th track is."""
    flags = [row % explicit == 0 for row in range(TRACKS)]
    land = [["SE", "NO"][: row % 3] for row in range(TRACKS)]
    pq.write_table(pa.table({"track_id": NAMES, "explicit": flags, "territory": land}), file.with_suffix(".next"))
    os.replace(file.with_suffix(".next"), file)
    return file


@pytest.fixture(scope="module")
def place(write_export, tmp_path_factory) -> Path:
    return write_export(tmp_path_factory.mktemp("filtered") / "out", names={"artist": ARTISTS})


@pytest.fixture
def filtered(place: Path, tmp_path: Path):
    rights = write_rights(tmp_path / "rights.parquet", 2)
    asked = Asked(ServeConfig(place, tracks=rights, filter=read_filter({"explicit": False}), reload_s=0))
    yield asked, rights
    asked.close()


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["track"] for one in answer.json()["tracks"]]


def test_requests(filtered, place):
    """Together and one by one, each gets its own."""
    ask, rights = filtered
    recommender = skipwise.load(place, tracks=rights)
    asked = [
        {"filter": {"territory": "SE"}},
        {"filter": {"territory": ["NO"], "artist": {"not": ["Artist 1", "Artist 2"]}}, "k": 25},
        {"cool_down": 2, "exclude": "none"},
        {"filter": {"track": {"not": NAMES[:150]}}},
        {},
    ]
    for fields in asked:
        tracks, skipped = zip(*SESSION, strict=True)
        options = {"filter": {}} | fields
        expected = recommender.recommend(
            [*tracks], [*skipped], **options | {"filter": options["filter"] | {"explicit": False}}
        )
        assert ids(ask.recommend(SESSION, **fields)) == [track for track, _ in expected]
    assert ask("GET", "/exports").json()["main"]["columns"] == ["artist", "explicit", "territory"]
    schema = ask("GET", "/openapi.json").json()["components"]["schemas"]["RecommendRequest"]["properties"]
    assert schema["filter"]["type"] == "object" and schema["cool_down"]["maximum"] == 10_000


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"filter": {"mood": "calm"}}, "no column 'mood': they have track, artist, explicit, territory"),
        ({"filter": {"explicit": "no"}}, "the column holds true or false"),
        ({"filter": {"explicit": 0}}, "the column holds true or false"),
        ({"filter": []}, "filter is refused"),
        ({"filter": {"artist": {"like": "A"}}}, "filter is refused"),
        ({"cool_down": "2"}, "cool_down is refused"),
        ({"cool_down": -1}, "cool_down is refused"),
    ],
)
def test_refused_requests(filtered, fields, said):
    """After a request with an equal value of another type has been answered."""
    ask, _ = filtered
    ids(ask.recommend(SESSION, filter={"explicit": False}))
    answer = ask.recommend(SESSION, **fields)
    assert answer.status_code == 422 and said in sentence(answer)


def test_half_a_character(filtered):
    body = rb'{"session": [{"track": "t_001"}], "filter": {"artist": "\ud800"}}'
    answer = filtered[0]("POST", "/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and "whole characters" in sentence(answer)


def test_rights_that_change(filtered, tmp_path):
    ask, rights = filtered
    before, swap = ids(ask.recommend(SESSION, k=TRACKS)), ask.service.exports["main"]
    assert not swap.changed()
    write_rights(rights, 3)
    assert not swap.changed() and swap.changed()
    swap.reload()
    assert swap.error is None and not swap.changed()
    assert {*ids(ask.recommend(SESSION, k=TRACKS))} != {*before}
    pq.write_table(pa.table({"track_id": NAMES}), rights)
    swap.reload()
    assert "no column 'explicit'" in swap.error and swap.current.generation == 2


def test_a_service_whose_own_filter_does_not_fit(place):
    with pytest.raises(UserError, match="no column 'explicit'"):
        Asked(ServeConfig(place, filter=read_filter({"explicit": False}), reload_s=0))
