"""Each source that is known by name is read as its documentation says, from small files in its true form."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.components.__main__ import run
from skipwise.datapipes.prepare import PrepareConfig, json_rows, prepare
from skipwise.datapipes.prepare.known_sources import SOURCES
from skipwise.datapipes.prepare.named_source import is_given


def spotify(minute: int, track: str | None, skipped: bool | None, end: str, played: int) -> dict:
    name = None if track is None else track.upper()
    return {
        "ts": f"2023-11-15T04:{minute:02}:20Z",
        "platform": "linux",
        "ms_played": played,
        "conn_country": "SE",
        "ip_addr": "127.0.0.1",
        "master_metadata_track_name": name,
        "master_metadata_album_artist_name": name and "An artist",
        "master_metadata_album_album_name": name and "An album",
        "spotify_track_uri": track and f"spotify:track:{track}",
        "episode_name": None if track else "An episode",
        "episode_show_name": None,
        "spotify_episode_uri": None,
        "reason_start": "clickrow",
        "reason_end": end,
        "shuffle": False,
        "skipped": skipped,
        "offline": False,
        "offline_timestamp": None,
        "incognito_mode": False,
    }


SPOTIFY = [
    spotify(1, "a", True, "fwdbtn", 9000),
    spotify(4, None, False, "trackdone", 90000),
    spotify(7, "b", False, "fwdbtn", 90000),
    spotify(10, "c", None, "endplay", 9000),
    spotify(13, "d", False, "trackdone", 90000),
]
SHORT = [
    {"endTime": f"2023-11-15 04:{minute}", "artistName": "A", "trackName": track, "msPlayed": played}
    for minute, track, played in (("01", "x", 200), ("05", "y", 40000), ("09", "z", 50000))
]
SHORT += [{**SHORT[0], "artistName": "Unknown Artist", "trackName": "Unknown Track"}]
LISTEN = {
    "inserted_at": 1.5,
    "recording_msid": "5d0a4f0c",
    "track_metadata": {"artist_name": "A", "track_name": "x", "mbid_mapping": None, "additional_info": {}},
}
LISTENS = [{**LISTEN, "listened_at": 1700000000 - 60 * at} for at in range(3)]
MSSD = "session_id,session_position,session_length,track_id_clean,skip_1,skip_2,skip_3,not_skipped,date\n" + "".join(
    f"s,{play},3,t{play},{'true,true,true,false' if play == 1 else 'false,false,false,true'},2018-07-15\n"
    for play in (1, 2, 3)
)
OTTO = {"session": 12, "events": [{"aid": 7 + at, "ts": 1661724000278 + at, "type": "clicks"} for at in range(3)]}
YAMBDA = {"uid": [1] * 4, "timestamp": [40, 80, 120, 2000], "item_id": [5, 6, 7, 8], "is_organic": [1] * 4}
YAMBDA |= {"played_ratio_pct": [100, 49, 50, 90], "track_length_seconds": [180] * 4}
EVENTS = {name: [*values[:3], values[2], values[3]] for name, values in YAMBDA.items()}
EVENTS |= {"event_type": ["listen"] * 3 + ["like", "listen"]}
SEQUENTIAL = {name: [values] for name, values in YAMBDA.items()} | {"uid": [1]}
OTTO_TABLE = {"session": [12] * 3, **{key: [event[key] for event in OTTO["events"]] for key in OTTO["events"][0]}}
KUAIRAND = "user_id,video_id,date,hourmin,time_ms,is_click,long_view,play_time_ms,duration_ms\n" + "".join(
    f"0,{5 - at},20220409,900,{1649467982289 - at},1,{at % 2},5,9\n" for at in range(3)
)

FILES = {
    "mssd": [("log_0_20180715.csv", MSSD, {"s": ["t1-", "t2", "t3"]})],
    "spotify-history": [
        (
            "Streaming_History_Audio_2023_0.json",
            json.dumps(SPOTIFY),
            {"me#1": ["spotify:track:a-", "spotify:track:b-", "spotify:track:c-", "spotify:track:d"]},
        ),
        ("StreamingHistory_music_0.json", json.dumps(SHORT, indent=2), {"me#1": ["A | x-", "A | y", "A | z"]}),
    ],
    "lastfm": [
        (
            "scrobbles-me-1700135900.csv",
            "uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid\n"
            + "".join(f'"{1700000000 - at}","14 Nov 2023, 22:13","A","","B","","{at}",""\n' for at in range(3)),
            {"me#1": ["A | 2", "A | 1", "A | 0"]},
        ),
        (
            "me.csv",
            "".join(f'A,B,{track},"14 Nov 2023, 22:1{3 - at}"\n' for at, track in enumerate(("None", "1", "0"))),
            {"me#1": ["A | 0", "A | 1", "A | None"]},
        ),
        (
            "lastfmstats-me.csv",
            "Artist;Album;AlbumId;Track;Date#me\n"
            + "".join(f'"A";"B";"";"{at}";"{1700000000000 - 200000 * at}"\n' for at in range(3)),
            {"me#1": ["A | 2", "A | 1", "A | 0"]},
        ),
    ],
    "lastfm-1k": [
        (
            "userid-timestamp-artid-artname-traid-traname.tsv",
            "".join(f'user_000001\t2009-05-04T23:0{9 - at}:57Z\tm\tA "q"\t\t{at}\n' for at in range(3)),
            {"user_000001#1": ['A "q" | 2', 'A "q" | 1', 'A "q" | 0']},
        )
    ],
    "listenbrainz": [
        ("11.jsonl", "".join(json.dumps(one) + "\n" for one in LISTENS), {"me#1": ["A | x"] * 3}),
        (
            "12.jsonl",
            "".join(json.dumps({**one, "user_name": "rob"}) + "\n" for one in LISTENS),
            {"rob#1": ["A | x"] * 3},
        ),
        (
            "1.listens",
            "".join(json.dumps({**LISTEN, "user_name": "rob", "timestamp": 1700000000 + at}) + "\n" for at in range(3)),
            {"rob#1": ["A | x"] * 3},
        ),
    ],
    "yambda": [
        ("listens.parquet", YAMBDA, {"1#1": ["5", "6-", "7"]}),
        ("multi_event.parquet", EVENTS, {"1#1": ["5", "6-", "7"]}),
        ("listens_sequential.parquet", SEQUENTIAL, {"1#1": ["5", "6-", "7"]}),
    ],
    "kuairand": [("log_standard_4_08_to_4_21_1k.csv", KUAIRAND, {"0#1": ["3-", "4", "5-"]})],
    "movielens": [
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n" + "".join(f"1,{at},{at}.5,{1700000000 - at}\n" for at in range(1, 4)),
            {"1": ["3", "2-", "1-"]},
        ),
        ("ratings.dat", "".join(f"1::{at}::{at}::{978302109 - at}\n" for at in range(1, 4)), {"1": ["3", "2-", "1-"]}),
        ("u.data", "".join(f"196\t{at}\t{at}\t{881250949 + at}\n" for at in range(1, 4)), {"196": ["1-", "2-", "3"]}),
    ],
    "otto": [
        ("train.jsonl", json.dumps(OTTO) + "\n", {"12": ["7", "8", "9"]}),
        ("train.parquet", OTTO_TABLE, {"12": ["7", "8", "9"]}),
    ],
}
FORMS = [(name, *form) for name, forms in FILES.items() for form in forms]


def write(folder: Path, name: str, content: str | dict) -> Path:
    """The folder of a source's file, beside which there are others."""
    for other in ("ReadMe.pdf", "Playlist1.json", "movies.csv", "tf_000000000000.csv"):
        (folder / other).write_text("{}")
    if isinstance(content, dict):
        pq.write_table(pa.table(content), folder / name)
    else:
        (folder / name).write_text(content)
    return folder


def sessions_of(data: Path) -> dict[str, list[str]]:
    """The tracks of each session, with a dash behind skipped ones and a question mark where it is not known."""
    tracks = pq.read_table(data / "vocabulary.parquet")["track_id"].to_pylist()
    marks = {0: "", -1: "?"}
    return {
        one["session_id"]: [
            tracks[row] + marks.get(skip, "-") for row, skip in zip(one["tracks"], one["skips"], strict=True)
        ]
        for one in pq.read_table(data / "sessions").to_pylist()
    }


def test_every_form_has_a_file():
    assert [*FILES] == [*dict.fromkeys(known.name for known in SOURCES)]
    assert len(FORMS) >= len(SOURCES)


@pytest.mark.parametrize(("source", "name", "content", "expected"), FORMS, ids=lambda value: str(value)[:20])
def test_a_source_needs_no_other_option(source, name, content, expected, tmp_path):
    (tmp_path / "log").mkdir()
    log = write(tmp_path / "log", name, content)
    if source == "lastfm":
        log /= name
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", source=source))
    assert sessions_of(tmp_path / "data") == expected


def test_given_options_override_those_of_a_source(tmp_path):
    log = write(tmp_path, *FILES["spotify-history"][0][:2])
    config = {"input": (log,), "output": tmp_path / "data", "source": "spotify-history", "overwrite": True}
    prepare(PrepareConfig(**config, skip="skipped", user="rob", track="master_metadata_track_name"))
    assert sessions_of(tmp_path / "data") == {"rob#1": ["A-", "B", "C?", "D"]}
    prepare(PrepareConfig(**config, session="platform", gap="4m", on_missing_track="cut", min_length=3))
    assert sessions_of(tmp_path / "data") == {"linux#2": [f"spotify:track:{one}" for one in ("b-", "c-", "d")]}


def test_an_option_that_is_given_its_default_is_given(tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,session_id,rating,timestamp\n" + "".join(f"1,m{at},s,{at},{at}\n" for at in range(1, 4))
    )
    words = ["--input", str(tmp_path / "ratings.csv"), "--output", str(tmp_path / "data"), "--source", "movielens"]
    run(["prepare", *words, "--session", "session_id"])
    assert sessions_of(tmp_path / "data") == {"s": ["m1-", "m2-", "m3"]}
    run(["prepare", *words, "--overwrite"])
    assert sessions_of(tmp_path / "data") == {"1": ["m1-", "m2-", "m3"]}
    config = PrepareConfig(input=(tmp_path,), output=tmp_path, session="session_id", skip_below=float("3"))
    assert is_given(config, "session") and is_given(config, "skip_below") and not is_given(config, "track")


MOVIES = (("1", "A, B"), ("2", "Am\xe9lie (2001)"), ("3", '"C"'))


@pytest.mark.parametrize(
    ("log", "tracks", "table"),
    [
        ("ratings.dat", "movies.dat", "".join(f"{at}::{name}::Drama|War\n" for at, name in MOVIES)),
        ("u.data", "u.item", "".join(f"{at}|{name}|1|{'|0' * 20}\n" for at, name in MOVIES)),
        ("ratings.csv", "movies.csv", 'movieId,title,genres\n2,Am\xe9lie (2001),x\n1,"A, B",x\n3,"""C""",x\n'),
    ],
    ids=lambda value: value[:9],
)
def test_movies_have_titles(log, tracks, table, tmp_path, capsys):
    (content,) = (content for name, content, _ in FILES["movielens"] if name == log)
    (tmp_path / log).write_text(content)
    config = {"input": (tmp_path,), "output": tmp_path / "data", "source": "movielens", "overwrite": True}
    for encoding, first in (("latin-1", "Am\\xe9lie (2001)"), ("utf-8", "Am\xe9lie (2001)")):
        (tmp_path / tracks).write_bytes(table.encode(encoding))
        prepare(PrepareConfig(**config, tracks=tmp_path / tracks))
        names = pq.read_table(tmp_path / "data" / "vocabulary.parquet").to_pylist()
        assert {one["track_id"]: one["title"] for one in names} == {"2": first, "1": "A, B", "3": '"C"'}
        assert ("1 tracks have a title that is not UTF-8" in capsys.readouterr().err) == (encoding == "latin-1")
    with pytest.raises(ValueError, match="name it with --tracks$"):
        PrepareConfig(input=(tmp_path,), output=tmp_path, title="title", tracks_columns=("track_id", "title"))


@pytest.mark.parametrize(
    ("source", "folders", "user", "warns"),
    [
        ("spotify-history", ("ann", "bob"), None, True),
        ("spotify-history", ("ann", "bob"), "me", False),
        ("spotify-history", ("ann", "bob"), "rob", False),
        ("spotify-history", ("ann", "bob"), "file", False),
        ("spotify-history", ("ann",), None, False),
        ("listenbrainz", ("listens/2022", "listens/2023"), None, False),
        ("listenbrainz", ("ann/listens/2022", "bob/listens/2022"), None, True),
        ("lastfm", ("ann", "bob"), None, True),
    ],
)
def test_exports_of_several_people_are_warned_of(source, folders, user, warns, tmp_path, capsys):
    name, content, _ = FILES[source][0]
    for folder in folders:
        (tmp_path / "log" / folder).mkdir(parents=True)
        (tmp_path / "log" / folder / name).write_text(content)
    config = PrepareConfig(input=(tmp_path / "log",), output=tmp_path / "data", source=source)
    prepare(replace(config, user=user))
    said = "folders (" in capsys.readouterr().err
    assert said == warns
    if user == "file":
        users = {session.split("#")[0] for session in sessions_of(tmp_path / "data")}
        assert users == {f"{folder}/{Path(name).stem}" for folder in folders}


def test_copies_of_a_source_are_told_of(tmp_path, capsys):
    for folder in ("flat/50m", "flat/500m", "sequential/50m"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table(SEQUENTIAL if "seq" in folder else YAMBDA), tmp_path / folder / "listens.parquet")
    prepare(PrepareConfig(input=(tmp_path,), output=tmp_path / "data", source="yambda"))
    said = capsys.readouterr().err
    assert "stand in 3 folders" in said and f"{tmp_path}/flat/50m" in said and "give one folder with --input" in said
    prepare(PrepareConfig(input=(tmp_path / "flat" / "50m",), output=tmp_path / "one", source="yambda"))
    assert "folders" not in capsys.readouterr().err and sessions_of(tmp_path / "one") == {"1#1": ["5", "6-", "7"]}


def test_of_two_exports_the_better_one_is_read(tmp_path, capsys):
    for name, content, _ in FILES["spotify-history"]:
        (tmp_path / name).write_text(content)
    prepare(PrepareConfig(input=(tmp_path,), output=tmp_path / "data", source="spotify-history"))
    assert [*sessions_of(tmp_path / "data")["me#1"]][0] == "spotify:track:a-"
    assert "not read, as they are of another form or hold the same plays: StreamingHistory_" in capsys.readouterr().err


def test_a_field_of_a_source_that_begins_late_is_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(json_rows, "SAMPLE", 3)
    early = [{name: value for name, value in one.items() if name != "skipped"} for one in SPOTIFY]
    (tmp_path / "endsong_0.json").write_text(json.dumps([*early, *SPOTIFY]))
    prepare(PrepareConfig(input=(tmp_path,), output=tmp_path / "data", source="spotify-history"))
    assert "has the field 'skipped' only behind the records" in capsys.readouterr().err
    prepare(
        PrepareConfig(
            input=(tmp_path,),
            output=tmp_path / "2",
            source="spotify-history",
            reason="reason_end",
            keep_reasons=("trackdone",),
        )
    )
    assert "'skipped'" not in capsys.readouterr().err


def test_a_log_of_another_form_is_refused_with_its_columns(tmp_path):
    (tmp_path / "log.csv").write_text("user,track\nu,t\n")
    config = PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "data", source="otto")
    with pytest.raises(
        UserError, match="not as --source otto knows it .its columns are user, track; expected session,"
    ):
        prepare(config)
    with pytest.raises(ValueError, match="--source must be one of mssd, spotify-history, "):
        PrepareConfig(input=(tmp_path,), output=tmp_path, source="napster")


def test_without_it_the_sentence_names_the_source(tmp_path):
    log = write(tmp_path, *FILES["kuairand"][0][:2]) / "log_standard_4_08_to_4_21_1k.csv"
    with pytest.raises(UserError, match="; --source kuairand knows these columns$"):
        prepare(PrepareConfig(input=(log,), output=tmp_path / "data"))
    (tmp_path / "own.csv").write_text("user,track\nu,t\n")
    with pytest.raises(UserError, match="; --explain .*own.csv proposes options$"):
        prepare(PrepareConfig(input=(tmp_path / "own.csv",), output=tmp_path / "data"))
