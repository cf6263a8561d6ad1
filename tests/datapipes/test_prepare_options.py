"""Column mapping, gaps, ratings, filters and sampling."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare


def run(tmp_path: Path, text: str, name: str = "log.csv", **options) -> dict[str, tuple[list[str], list[int]]]:
    """Sessions by id: the ids of their tracks and their skip strengths."""
    (tmp_path / name).write_text(text)
    prepare(PrepareConfig(input=(tmp_path / name,), output=tmp_path / "data", overwrite=True, **options))
    tracks = pq.read_table(tmp_path / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    return {
        session["session_id"]: ([tracks[row] for row in session["tracks"]], session["skips"])
        for session in pq.read_table(tmp_path / "data" / "sessions").to_pylist()
    }


def test_two_columns_without_a_header_are_in_time_order(tmp_path):
    text = "1 10\n1 11\n2 20\n1 12\n2 21\n2 20\n"
    expected = {"1": (["10", "11", "12"], [0, 0, 0]), "2": (["20", "21", "20"], [0, 0, 0])}
    assert run(tmp_path, text, "beauty.txt") == expected
    assert run(tmp_path, text.replace(" ", "\t"), "tabs.txt") == expected
    named = {"columns": ("user", "item"), "session": "user", "track": "item", "order": "file"}
    assert run(tmp_path, text.replace(" ", ","), "named.csv", **named) == expected


def test_a_table_of_users_is_cut_into_sessions_at_a_gap(tmp_path):
    names = {"columns": ("who", "when", "what"), "session": "who", "track": "what", "order": "when"}
    text = "u\t4000\ta\nu\t100\tb\nv\t0\tz\nu\t700\tc\nu\t701\td\nu\t5801\te\nu\t5802\tf\nu\t5803\tg\n"
    assert run(tmp_path, text, "log.tsv", gap="30m", **names) == {
        "u#1": (["b", "c", "d"], [0, 0, 0]),
        "u#3": (["e", "f", "g"], [0, 0, 0]),
    }
    assert Manifest.read(tmp_path / "data").dropped_sessions == {"shorter than 3": 2}
    assert run(tmp_path, text, "log.tsv", gap="30m", time_unit="ms", **names) == {
        "u#1": (["b", "c", "d", "a", "e", "f", "g"], [0] * 7)
    }


def test_a_gap_reads_dates_and_times_and_is_exclusive(tmp_path):
    names = {"session": "user", "track": "song", "order": "at"}
    times = ["2009-05-04T23:00:00Z", "2009-05-04T23:30:00Z", "2009-05-04T23:45:00Z", "2009-05-05T00:15:01Z"]
    rows = [f"u,{time},{song}" for time, song in zip(times, "abcd", strict=True)]
    sessions = run(tmp_path, "\n".join(["user,at,song", *reversed(rows)]), gap="0.5h", **names)
    assert sessions == {"u#1": (["a", "b", "c"], [0, 0, 0])}


def test_skips_come_from_a_flag_a_strength_or_a_rating(tmp_path):
    text = "session_id,session_position,track_id_clean,f,s,r\na,1,x,true,0,1\na,2,y,0,3,2.5\na,3,z,False,1,3\n"
    assert run(tmp_path, text)["a"][1] == [0, 0, 0]
    assert run(tmp_path, text, skip="f")["a"][1] == [2, 0, 0]
    assert run(tmp_path, text, skip_strength="s")["a"][1] == [0, 3, 1]
    assert run(tmp_path, text, rating="r")["a"][1] == [2, 2, 0]
    assert run(tmp_path, text, rating="r", skip_below=2)["a"][1] == [2, 0, 0]


def test_sort_takes_rows_in_any_order_and_over_files(tmp_path):
    head = "session_id,session_position,track_id_clean\n"
    (tmp_path / "b.csv").write_text(head + "s,1,a\ns,5,e\n")
    (tmp_path / "a.csv").write_text(head + "s,3,c\ns,2,b\ns,5,d\n")
    for files in (("a.csv", "b.csv"), ("b.csv", "a.csv")):
        inputs = tuple(tmp_path / file for file in files)
        prepare(PrepareConfig(input=inputs, output=tmp_path / "data", sort=True, overwrite=True))
        tracks = pq.read_table(tmp_path / "data" / "vocabulary.parquet")["track_id"].to_pylist()
        (session,) = pq.read_table(tmp_path / "data" / "sessions").to_pylist()
        assert [tracks[row] for row in session["tracks"]] == ["a", "b", "c", "d", "e"]


HEAD = "session_id,session_position,track_id_clean,skip_1,skip_2,skip_3\n"


def sessions_of(lengths: list[int]) -> str:
    """Session sN of N plays; the even ones have one strong skip, their first track, the others a weak one."""
    flags = {0: "0,1,1", 1: "0,0,1"}
    return HEAD + "".join(
        f"s{length},{play},t{play},{flags[length % 2] if play == 0 else '0,0,0'}\n"
        for length in lengths
        for play in range(length)
    )


def test_filters_count_what_they_drop(tmp_path):
    text = sessions_of([2, 3, 4, 9, 10, 20, 21])
    assert run(tmp_path, text).keys() == {"s3", "s4", "s9", "s10", "s20", "s21"}
    assert run(tmp_path, text, min_length=10, drop_longer=20).keys() == {"s10", "s20"}
    assert Manifest.read(tmp_path / "data").dropped_sessions == {"shorter than 10": 4, "longer than 20": 1}
    assert run(tmp_path, text, min_length=6, require_skip=True).keys() == {"s10", "s20"}
    assert Manifest.read(tmp_path / "data").dropped_sessions == {"shorter than 6": 3, "without a skip": 2}
    assert Manifest.read(tmp_path / "data").options["require_skip"] is True


def test_max_length_cuts_after_the_filters(tmp_path):
    sessions = run(tmp_path, sessions_of([3, 4, 12]), max_length=4, require_skip=True)
    assert sessions == {
        "s4": (["t0", "t1", "t2", "t3"], [2, 0, 0, 0]),
        "s12": (["t8", "t9", "t10", "t11"], [0, 0, 0, 0]),
    }


def test_a_sample_depends_on_seed_and_id_alone(tmp_path):
    head = "session_id,session_position,track_id_clean\n"
    blocks = ["".join(f"s{number},{play},{number}\n" for play in range(3)) for number in range(500)]

    def draw(seed: int) -> set[str]:
        return set(run(tmp_path, head + "".join(blocks), sample=100, seed=seed))

    def place(session: str) -> int:
        return int.from_bytes(hashlib.md5(f"7:{session}".encode()).digest()[:8], "little")

    first = draw(7)
    assert first == set(sorted((f"s{number}" for number in range(500)), key=place)[:100])
    assert Manifest.read(tmp_path / "data").dropped_sessions == {"not in the sample": 400}
    assert Manifest.read(tmp_path / "data").counts["tracks"] == 100
    blocks.reverse()
    assert draw(7) == first
    assert draw(8) != first
    assert len(run(tmp_path, head + "".join(blocks), sample=1000)) == 500


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"min_length": 2}, "--min-length"),
        ({"drop_longer": 2}, "--drop-longer"),
        ({"max_length": 2}, "--max-length"),
        ({"sample": 0}, "--sample"),
        ({"threads": 0}, "--threads"),
        ({"gap": "30 parsecs", "order": "time"}, "--gap"),
        ({"gap": "30m", "order": "file"}, "--gap"),
        ({"sort": True, "order": "file"}, "--sort"),
        ({"rating": "a", "skip_below": float("nan")}, "--skip-below"),
        ({"reason": "a"}, "--skip-reasons"),
        ({"skip_reasons": ("a",)}, "--reason"),
        ({"reason": "a", "skip_reasons": ("b",), "keep_reasons": ("b",)}, "both name 'b'"),
        ({"skip_under": "30s"}, "--played"),
        ({"duration": "a"}, "--played"),
        ({"played": "a"}, "--skip-under"),
        ({"played": "a", "skip_under": "30s"}, "--played-unit"),
        ({"played": "a", "skip_under": "30s", "played_unit": "s", "duration": "b"}, "leave --duration out"),
        ({"played": "a", "skip_under": ".5"}, "--duration"),
        ({"played": "a", "skip_under": "50", "duration": "b"}, "is no time"),
        ({"played": "a", "skip_under": "30 s", "played_unit": "s"}, "not '30 s'"),
        ({"played": "a", "skip_under": "0", "duration": "b"}, "not '0'"),
        ({"memory": 0.0}, "--memory"),
        ({"input": ()}, "--input"),
    ],
)
def test_bad_options_are_named(options, flag):
    with pytest.raises(ValueError, match=flag):
        PrepareConfig(**{"input": (Path("log.csv"),), "output": Path("data"), **options})


def test_filters_that_leave_nothing_say_so(tmp_path):
    with pytest.raises(UserError, match="no session is left.* 1 shorter than 3"):
        run(tmp_path, "session_id,session_position,track_id_clean\na,1,x\n")
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
