"""Whole sessions held out by a hash or by time, against the rule in plain Python."""

import hashlib
import itertools
import random
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.components.show import ShowConfig, show
from skipwise.datapipes.manifest import SPLITS, Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore

NAMES = {"session": "who", "track": "what", "order": "at"}
Sessions = dict[str, list[tuple[int, str]]]
"""For each session its plays: a time in seconds and a track."""


def run(folder: Path, plays: list[tuple], files: int = 1, **options) -> Manifest:
    """Prepares rows of session, time and track, dealt over some files."""
    inputs = tuple(folder / f"log-{number}.csv" for number in range(files))
    for number, path in enumerate(inputs):
        path.write_text("\n".join(["who,at,what", *(",".join(map(str, play)) for play in plays[number::files]), ""]))
    options = {"sort": True, "overwrite": True, **NAMES, **options}
    return prepare(PrepareConfig(input=inputs, output=folder / "data", **options))


def rows(sessions: Sessions) -> list[tuple]:
    return [(session, *play) for session, plays in sessions.items() for play in plays]


def found(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The tracks of each session, by split; `part` where there is none."""
    tracks = pq.read_table(folder / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    result: dict[str, dict[str, list[str]]] = {}
    for file in sorted((folder / "data" / "sessions").iterdir()):
        entries = pq.read_table(file).to_pylist()
        named = {entry["session_id"]: [tracks[row] for row in entry["tracks"]] for entry in entries}
        result.setdefault(file.name.split("-")[0], {}).update(named)
    return result


def split_by_hash(session: str, seed: int, test: float, validation: float) -> str:
    digest = hashlib.md5(f"{seed}:split:{session}".encode()).digest()
    place = int.from_bytes(digest[:8], "little") / 2**64
    return "test" if place < test else "validation" if place < test + validation else "train"


def three_plays(count: int) -> Sessions:
    return {f"s{number}": [(at, f"t{(number + at) % 40}") for at in range(3)] for number in range(count)}


def check_parts(folder: Path, manifest: Manifest, sessions: Sessions, expected: dict[str, str]) -> None:
    """Files, counts and stores are those of `expected`, the split of each session."""
    parts = found(folder)
    assert {session: split for split, of in parts.items() for session in of} == expected
    everything = {session: tracks for of in parts.values() for session, tracks in of.items()}
    assert everything == {session: [track for _, track in sorted(plays)] for session, plays in sessions.items()}
    assert Counter(len(of) for of in parts.values()).total() == 3
    store = SessionStore(str(folder / "data"))
    known = {track for tracks in parts["train"].values() for track in tracks}
    for split, of in parts.items():
        plays = [track for tracks in of.values() for track in tracks]
        assert manifest.split_counts[split] == {
            "sessions": len(of),
            "plays": len(plays),
            "tracks_not_in_train": len({*plays} - known),
        }
        assert len(store.part(split)) == len(of)
    assert manifest == Manifest.read(folder / "data")
    vocabulary = pq.read_table(folder / "data" / "vocabulary.parquet").to_pylist()
    assert {entry["track_id"]: entry["count"] for entry in vocabulary} == Counter(
        track for tracks in everything.values() for track in tracks
    )


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(30, 60),
    seed=st.integers(0, 9),
    shares=st.sampled_from([(None, None), (0.4, 0.3), (0.25, None)]),
    files=st.integers(1, 3),
    order=st.randoms(use_true_random=False),
)
def test_a_split_by_session_depends_on_seed_and_id_alone(count, seed, shares, files, order):
    sessions = three_plays(count)
    plays = rows(sessions)
    order.shuffle(plays)
    test, validation = shares[0] or 0.2, shares[1] or 0.1
    expected = {session: split_by_hash(session, seed, test, validation) for session in sessions}
    with tempfile.TemporaryDirectory() as name:
        options = {"split": "session", "seed": seed, "test_share": shares[0], "validation_share": shares[1]}
        if {*expected.values()} != {*SPLITS}:
            with pytest.raises(UserError, match=r"--split session leaves a part without sessions \(\d+ train, "):
                run(Path(name), plays, files, **options)
            return
        manifest = run(Path(name), plays, files, **options)
        check_parts(Path(name), manifest, sessions, expected)
        assert manifest.options["test_share"] == test and manifest.options["validation_share"] == validation


def test_rows_as_they_stand_give_the_same_files(tmp_path):
    sessions = three_plays(200)
    results = []
    for shuffled in (False, True):
        plays = rows(sessions)
        if shuffled:
            random.Random(1).shuffle(plays)
        run(tmp_path, plays, 1 + shuffled, split="session")
        files = (tmp_path / "data").rglob("*.parquet")
        results.append({file.name: file.read_bytes() for file in files})
    assert results[0] == results[1]
    assert results[0].keys() == {"vocabulary.parquet", *(f"{split}-00000.parquet" for split in SPLITS)}


def test_a_sample_is_drawn_whatever_the_split(tmp_path):
    """With one hash for both, the sample would be nothing but test sessions."""
    plays = rows(three_plays(600))
    run(tmp_path, plays, split="session", seed=3)
    whole = found(tmp_path)
    run(tmp_path, plays, seed=3, sample=300)
    sampled = found(tmp_path)["part"]
    run(tmp_path, plays, split="session", seed=3, sample=300)
    assert found(tmp_path) == {split: {s: of[s] for s in of if s in sampled} for split, of in whole.items()}
    assert 30 < len(found(tmp_path)["test"]) < 90


UNITS = {
    "s": str,
    "ms": lambda second: f"{second}000",
    "date": lambda second: datetime.fromtimestamp(second, UTC).isoformat(),
}


@pytest.mark.parametrize(("share", "said"), [(0.001, "raise"), (0.899, "lower")])
def test_the_remedy_for_a_part_without_sessions_fits(share: float, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=f"without sessions .*: {said} --test-share or") as stop:
        run(tmp_path, rows(three_plays(6)), split="session", test_share=share)
    assert ("0 train" in str(stop.value)) == (said == "lower")


@settings(max_examples=20, deadline=None)
@given(
    lasts=st.lists(st.integers(3, 30), min_size=3, max_size=25),
    bounds=st.tuples(st.integers(4, 30), st.integers(4, 30)).filter(lambda pair: pair[0] < pair[1]),
    unit=st.sampled_from(sorted(UNITS)),
    number=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_a_split_by_time_trains_on_nothing_from_the_date_on(lasts, bounds, unit, number, order):
    start = 1_700_000_000
    sessions = {
        f"s{index}": [(start + at, f"t{(index + at) % 9}") for at in (*order.sample(range(last), 3), last)]
        for index, last in enumerate(lasts)
    }
    validation, test = (start + bound for bound in bounds)
    ends = {session: max(at for at, _ in plays) for session, plays in sessions.items()}
    expected = {s: "test" if end >= test else "validation" if end >= validation else "train" for s, end in ends.items()}
    plays = [(session, UNITS[unit](at), track) for session, at, track in rows(sessions)]
    order.shuffle(plays)
    say = UNITS["s" if unit == "date" else unit] if number else UNITS["date"]
    options = {"split": "time", "test_from": say(test), "validation_from": say(validation)}
    options |= {"time_unit": "ms"} if unit == "ms" else {}
    with tempfile.TemporaryDirectory() as name:
        if {*expected.values()} != {*SPLITS}:
            counts = ", ".join(f"{[*expected.values()].count(split)} {split}" for split in SPLITS)
            with pytest.raises(UserError, match=rf"--split time leaves a part without sessions \({counts}\): the"):
                run(Path(name), plays, **options)
            return
        check_parts(Path(name), run(Path(name), plays, **options), sessions, expected)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (("2018-07-11", "2018-07-13T02:00:00+02:00"), "from 2018-07-11T00:00:00 to 2018-07-13T00:00:00, so move"),
        (("20180711", "20180713"), "from 1970-08-22T13:45:11 to 1970-08-22T13:45:13, so move .* check --time-unit"),
        (("1e15", "2e15"), "from 1e[+]15 s since 1970 to 2e[+]15 s since 1970"),
    ],
)
def test_a_split_by_time_without_a_part_says_when_the_sessions_end(times: tuple, says: str, tmp_path: Path):
    plays = [(f"s{number}", at, track) for number, at in enumerate(times) for track in "abc"]
    with pytest.raises(UserError, match=f"the sessions end {says}"):
        run(tmp_path, plays, split="time", validation_from="2018-08-01", test_from="2018-08-02")


DAYS = [f"2018-07-{day}" for day in (14, 15, 16)]


def test_a_date_without_an_offset_is_midnight_in_utc(tmp_path):
    times = ["2018-07-14T23:59:59Z", "2018-07-15T00:00:00Z", "2018-07-15T23:59:59", "2018-07-16 01:00:00"]
    plays = [(f"s{number}", at, track) for number, at in enumerate(times) for track in "abc"]
    options = {"split": "time", "validation_from": DAYS[1], "test_from": DAYS[2]}
    run(tmp_path, plays, **options)
    assert {split: {*of} for split, of in found(tmp_path).items()} == {
        "train": {"s0"},
        "validation": {"s1", "s2"},
        "test": {"s3"},
    }
    run(tmp_path, plays, **options | {"validation_from": "2018-07-15T02:00:00+02:00", "test_from": "2018-07-16"})
    assert {*found(tmp_path)["validation"]} == {"s1", "s2"}


@pytest.mark.parametrize("parquet", [False, True])
def test_an_offset_in_the_log_moves_the_play(parquet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sessions end an hour before, at and an hour after the dates, and one jumps by an hour on the clock alone."""
    monkeypatch.setenv("TZ", "America/New_York")  # must not count
    ends = {"s0": "2018-07-15T01:00:00+02:00", "s1": "2018-07-15T02:00:00+02:00", "s2": "2018-07-15T19:00:00-05:00"}
    plays = [(session, at, track) for session, at in ends.items() for track in "abc"]
    plays += [("s3", "2018-07-14T12:50:00+02:00", "a"), ("s3", "2018-07-14T11:55:00+01:00", "b")]
    plays += [("s3", "2018-07-14T11:00:00Z", "c")]
    options = {"split": "time", "validation_from": DAYS[1], "test_from": DAYS[2], "gap": "30m"}
    if parquet:
        session, at, track = zip(*plays, strict=True)
        times = pa.array(map(datetime.fromisoformat, at), pa.timestamp("us", "Europe/Paris"))
        pq.write_table(pa.table({"who": session, "at": times, "what": track}), tmp_path / "log.parquet")
        prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data", **NAMES, **options))
    else:
        run(tmp_path, plays, **options)
    tracks = ["a", "b", "c"]
    assert found(tmp_path) == {
        "train": {"s0#1": tracks, "s3#1": tracks},
        "validation": {"s1#1": tracks},
        "test": {"s2#1": tracks},
    }


@pytest.mark.parametrize("max_length", [None, 3])
def test_users_cut_at_gaps_are_split_by_session(max_length, tmp_path):
    """One user's sessions fall on both sides of the date; the sessions keep the plays that come last."""
    plays = [("u", hour * 3600 + minute, f"t{minute}") for hour in range(4) for minute in range(5)]
    options = {"gap": "30m", "split": "time", "validation_from": "7200", "test_from": "10804"}
    run(tmp_path, plays, max_length=max_length, **options)
    tracks = [f"t{minute}" for minute in range(5)][-(max_length or 0) :]
    assert found(tmp_path) == {
        "train": {"u#1": tracks, "u#2": tracks},
        "validation": {"u#3": tracks},
        "test": {"u#4": tracks},
    }
    many = [(f"u{user}", hour * 3600, f"t{user}") for user in range(9) for hour in range(9) for _ in range(3)]
    run(tmp_path, many, gap="30m", split="session", seed=1)
    expected = {
        f"u{user}#{hour}": split_by_hash(f"u{user}#{hour}", 1, 0.2, 0.1) for user in range(9) for hour in range(1, 10)
    }
    assert {session: split for split, of in found(tmp_path).items() for session in of} == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"test_share": 0.2}, "--test-share belongs to --split session: leave it out, or give --split session"),
        ({"validation_from": "2018"}, "--validation-from belongs to --split time: leave it out"),
        ({"split": "session", "test_from": "2018"}, "--test-from belongs to --split time"),
        ({"split": "time", "validation_share": 0.1}, "--validation-share belongs to --split session"),
        ({"split": "time", "validation_from": "2018-07-15"}, "--split time needs --test-from: give a date"),
        ({"split": "time", "test_from": "2018-07-15"}, "--split time needs --validation-from: give a date"),
        (
            {"split": "time", "test_from": "2", "validation_from": "2"},
            "--validation-from 2 must be earlier than --test-from 2",
        ),
        (
            {"split": "time", "test_from": DAYS[0], "validation_from": DAYS[1]},
            "must be earlier than --test-from 2018-07-14",
        ),
        (
            {"split": "time", "test_from": "July", "validation_from": "1"},
            "--test-from must be a date such as .* not 'July'",
        ),
        ({"split": "time", "test_from": "9", "validation_from": "15-07-18"}, "--validation-from must be .* '15-07-18'"),
        (
            {"split": "time", "test_from": "9", "validation_from": "1", "order": "session_position"},
            "--split time needs a column of times, and session_position is a place .* --order",
        ),
        ({"gap": "30m", "order": "session_position"}, "--gap needs a column of times, and session_position is a place"),
        ({"split": "time", "test_from": "9", "validation_from": "nan"}, "--validation-from must be a date such as"),
        (
            {"split": "time", "test_from": "9", "validation_from": "1", "order": "file"},
            "needs a column of times: .* --order",
        ),
        ({"split": "session", "test_share": 0.0}, "--test-share must lie between 0 and 1, not 0.0"),
        ({"split": "session", "validation_share": 1.0}, "--validation-share must lie between 0 and 1, not 1.0"),
        ({"split": "session", "test_share": 0.6, "validation_share": 0.4}, "leave nothing for training: lower them"),
        ({"drop_duplicate_plays": True}, "--drop-duplicate-plays needs sorted rows: add --sort or --gap"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        PrepareConfig(**{"input": (Path("log.csv"),), "output": Path("data"), "order": "at", **options})


@pytest.mark.parametrize(
    "option",
    [{"split": "time", "test_from": "9", "validation_from": "1"}, {"drop_duplicate_plays": True, "sort": True}],
)
def test_a_file_without_times_is_refused(option, tmp_path):
    (tmp_path / "pairs.txt").write_text("1 10\n1 11\n1 12\n")
    with pytest.raises(UserError, match=r"pairs.txt has no column of times or places, which --split time, --gap and"):
        prepare(PrepareConfig(input=(tmp_path / "pairs.txt",), output=tmp_path / "data", order="at", **option))


def test_every_share_is_about_as_asked(tmp_path):
    manifest = run(tmp_path, rows(three_plays(4000)), split="session", test_share=0.3, validation_share=0.15)
    sizes = {split: of["sessions"] / 4000 for split, of in manifest.split_counts.items()}
    assert sizes == pytest.approx({"train": 0.55, "validation": 0.15, "test": 0.3}, abs=0.03)
    assert sum(itertools.chain([0], manifest.parts.values())) == 4000


def test_what_is_held_out_is_said(tmp_path, capsys):
    times = {"a": 1, "b": 2, "c": 3, "d": 4}
    plays = [(session, at, f"{session}{track}") for session, at in times.items() for track in range(3)]
    plays[-1] = ("d", 4, "a0")
    run(tmp_path, plays, split="time", validation_from="3", test_from="4")
    holds = (
        "4 sessions, 12 plays, 11 tracks; train: 2 sessions, 6 plays; "
        "validation: 1 sessions, 3 plays, 3 tracks that no training session has; "
        "test: 1 sessions, 3 plays, 2 tracks that no training session has"
    )
    assert capsys.readouterr().err.splitlines()[-1] == f"wrote {tmp_path / 'data'}: {holds}"
    assert Manifest.read(tmp_path / "data").summary() == holds
    show(ShowConfig(data=str(tmp_path / "data")))
    sizes = [
        "4 sessions of 3 to 3 tracks",
        "12 plays, 0.0 % of them skipped",
        "11 tracks",
        "split: whole sessions by time",
    ]
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "data"),
        *(f"  {line}" for line in [*sizes, *holds.split("; ")[1:]]),
    ]
