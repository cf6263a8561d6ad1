"""Repeated plays, and sessions with the same tracks: counted, warned of, left out on request."""

import hashlib
from collections import defaultdict
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.prepare.sessionize import repeats_play
from tests.datapipes.test_prepare_split import Sessions, found, rows, run, split_by_hash


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=20))
def test_a_row_says_a_play_again_where_one_before_it_says_the_same(plays):
    plays = sorted(plays, key=lambda play: play[:2])
    columns = [*zip(*plays, strict=True)] or [[], [], []]
    arrays = [pa.array(column, pa.int64()) for column in columns]
    block = pa.table(arrays, names=["session", "place", "track"])
    assert repeats_play(block, None).tolist() == [play in plays[:index] for index, play in enumerate(plays)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3000), st.integers(0, 2)), max_size=20))
def test_of_times_a_row_less_than_a_second_behind_the_same_track_says_it_again(plays):
    """Places are milliseconds; a play is again where the last one of its track is near, itself said again or not."""
    plays = sorted(plays)
    expected = [
        any(play[::2] == before[::2] and play[1] - before[1] < 1000 for before in plays[:index])
        for index, play in enumerate(plays)
    ]
    columns = [*zip(*plays, strict=True)] or [[], [], []]
    block = pa.table([pa.array(column, pa.int64()) for column in columns], names=["session", "place", "track"])
    assert repeats_play(block, Fraction(1, 1000)).tolist() == expected


OVERLAP: Sessions = {
    f"u{user}": [(100 + 60 * play, f"t{(user * 7 + play * play) % 11}") for play in range(5)] for user in range(20)
}


@pytest.mark.parametrize(
    ("options", "when"),
    [({"sort": True}, "same at"), ({"sort": False, "gap": "30m"}, "at equal to the second")],
)
def test_overlapping_exports_are_as_one(options, when, tmp_path, capsys):
    plays = rows(OVERLAP)
    whole = run(tmp_path, plays, **options)
    expected = found(tmp_path)
    assert "repeat a play" not in capsys.readouterr().err
    twice = [*plays[:60], *plays[40:], *plays[:5]]
    warned = run(tmp_path, twice, 2, **options)
    assert (
        f"warning: 25 rows repeat a play (same who and what, {when}): leave them out with --drop-duplicate-plays, "
        "unless at counts minutes or days, so that they may be plays of their own\n" in (capsys.readouterr().err)
    )
    assert warned.counts["plays"] == 125 and warned.dropped_rows == {}
    manifest = run(tmp_path, twice, 2, drop_duplicate_plays=True, **options)
    assert found(tmp_path) == expected and manifest.counts == whole.counts
    assert manifest.dropped_rows == {"that repeat a play": 25}
    said = capsys.readouterr().err
    assert "rows repeat a play" not in said and said.endswith("; dropped 25 rows that repeat a play\n")


def test_the_first_row_of_a_play_stays_and_other_rows_of_its_time_too(tmp_path):
    head = "who,at,what,skip\n"
    (tmp_path / "a.csv").write_text(head + "s,1,x,true\ns,1,y,false\ns,1,x,false\ns,2,x,false\n")
    (tmp_path / "b.csv").write_text(head + "s,1,y,true\ns,2,z,false\nr,1,x,false\nr,1,x,false\nr,1,x,false\n")
    files = (tmp_path / "b.csv", tmp_path / "a.csv")
    names = {"session": "who", "track": "what", "order": "at", "skip": "skip"}
    manifest = prepare(
        PrepareConfig(input=files, output=tmp_path / "data", sort=True, drop_duplicate_plays=True, **names)
    )
    assert found(tmp_path) == {"part": {"s": ["x", "y", "x", "z"]}}
    assert manifest.skip_share == 0.25
    assert manifest.dropped_rows == {"that repeat a play": 4}
    assert manifest.dropped_sessions == {"shorter than 3": 1}


def test_a_session_that_is_dropped_says_nothing_again(tmp_path):
    plays = [("s", "x", "a"), *[("s", 1, "a")] * 5, *[("r", at, "a") for at in range(3)]]
    manifest = run(tmp_path, plays, on_error="session", drop_duplicate_plays=True)
    assert manifest.dropped_rows == {} and manifest.dropped_sessions == {"order is not a number": 1}


def test_an_unsorted_log_that_says_a_play_twice_is_told_what_helps(tmp_path):
    hint = "sort the rows with --sort, and leave out repeated plays with --drop-duplicate-plays, or leave the row out"
    for track, helps in (("b", True), ("c", False)):
        with pytest.raises(UserError) as caught:
            run(tmp_path, [("s", 1, "a"), ("s", 2, "b"), ("s", 2, track), ("s", 3, "d")], sort=False)
        assert (hint in str(caught.value)) == helps
    run(tmp_path, [("s", 1, "a"), ("s", 2, "b"), ("s", 2, "b"), ("s", 3, "d")], drop_duplicate_plays=True)
    assert found(tmp_path) == {"part": {"s": ["a", "b", "d"]}}


def place(session: str) -> tuple[int, str]:
    """The place of a session in a dataset directory."""
    return int.from_bytes(hashlib.md5(session.encode()).digest()[:8], "little"), session


def repetitions(sessions: Sessions) -> set[str]:
    """The sessions whose tracks another one has, that stands before them in the directory."""
    same = defaultdict(list)
    for session, plays in sessions.items():
        same[tuple(track for _, track in sorted(plays))].append(session)
    return {session for named in same.values() for session in sorted(named, key=place)[1:]}


@settings(max_examples=20, deadline=None)
@given(
    tracks_of=st.lists(st.lists(st.sampled_from("ab"), min_size=3, max_size=4), min_size=30, max_size=60),
    order=st.randoms(use_true_random=False),
)
def test_of_equal_sessions_the_first_by_hash_stays(tracks_of, order, tmp_path_factory):
    folder = tmp_path_factory.mktemp("equal")
    sessions = {f"s{number}": list(enumerate(tracks)) for number, tracks in enumerate(tracks_of)}
    plays = rows(sessions)
    order.shuffle(plays)
    manifest = run(folder, plays, 2, drop_duplicate_sessions=True)
    again = repetitions(sessions)
    assert manifest.dropped_sessions == {"with the tracks of another session": len(again)}
    assert found(folder)["part"] == {s: [track for _, track in sessions[s]] for s in sessions if s not in again}


def test_skips_times_and_context_make_no_other_session(tmp_path, capsys):
    head = "session_id,session_position,track_id_clean,skip_1,skip_2,skip_3,hour_of_day\n"
    sessions = {"a": "xyz", "b": "xyz", "c": "xzy", "d": "xyzz", "e": "xyz"}
    lines = [
        f"{session},{at + number},{track},{number % 2},1,1,{number}\n"
        for number, (session, tracks) in enumerate(sessions.items())
        for at, track in enumerate(tracks)
    ]
    (tmp_path / "log.csv").write_text(head + "".join(lines))
    prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "data"))
    assert (
        "warning: 2 of 5 sessions repeat all tracks of another session, in the same order: leave"
        in capsys.readouterr().err
    )
    manifest = prepare(
        PrepareConfig(
            input=(tmp_path / "log.csv",), output=tmp_path / "data", overwrite=True, drop_duplicate_sessions=True
        )
    )
    assert manifest.dropped_sessions == {"with the tracks of another session": 2}
    assert "sessions repeat all tracks" not in capsys.readouterr().err


def test_duplicates_are_left_out_before_the_sample_is_drawn(tmp_path):
    sessions = {f"s{number}": [(at, f"t{number // 2 + at}") for at in range(3)] for number in range(100)}
    manifest = run(tmp_path, rows(sessions), drop_duplicate_sessions=True, sample=40)
    assert manifest.counts["sessions"] == 40
    assert manifest.dropped_sessions == {"with the tracks of another session": 50, "not in the sample": 10}
    assert not repetitions(sessions) & found(tmp_path)["part"].keys()


def test_duplicates_across_a_split_are_counted(tmp_path, capsys):
    sessions = {f"s{number}": [(at, f"t{number % 60 + at}") for at in range(3)] for number in range(150)}
    splits = {session: split_by_hash(session, 0, 0.2, 0.1) for session in sessions}
    trained = {tuple(plays) for session, plays in sessions.items() if splits[session] == "train"}
    crossing = [splits[session] for session, plays in sessions.items() if tuple(plays) in trained]
    counts = {split: crossing.count(split) for split in ("validation", "test")}
    assert min(counts.values()) > 0
    run(tmp_path, rows(sessions), split="session")
    assert (
        f"warning: 90 of 150 sessions repeat all tracks of another session, in the same order; {counts['validation']} "
        f"validation sessions and {counts['test']} test sessions have the tracks of a training session: leave the "
        f"repetitions out with --drop-duplicate-sessions\n"
    ) in capsys.readouterr().err
    run(tmp_path, rows(sessions), split="session", drop_duplicate_sessions=True)
    parts = found(tmp_path)
    assert all(splits[session] == split for split, of in parts.items() for session in of)
    everything = [tuple(tracks) for of in parts.values() for tracks in of.values()]
    assert len({*everything}) == len(everything) == 60
