"""Places of plays against a plain reading of the same texts with Python's numbers, dates and zones."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.utils import format_datetime
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.prepare.places import (
    ONE,
    Reading,
    at_least,
    distance,
    exact,
    expected_place,
    more_than,
    ranks,
    reading_of,
)
from skipwise.datapipes.prepare.times import seconds

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONFIG = PrepareConfig(input=(Path("a"),), output=Path("b"), order="at")
ZONES = [timezone(timedelta(minutes=15 * quarter)) for quarter in range(-48, 57)]
engine = duckdb.connect()
engine.execute("SET TimeZone = 'UTC'")


def read(texts: list[str], reading: Reading) -> list[Fraction | None]:
    """The exact values of texts."""
    query = f'SELECT {", ".join(reading.columns)} FROM (SELECT unnest(?::VARCHAR[]) AS "order")'
    rows = engine.execute(f"SELECT place, fraction FROM ({query})", [texts]).fetchall()
    return [None if place is None else place + Fraction(fraction, ONE) for place, fraction in rows]


def micro(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.decimals(-(2**62), 2**62, places=9).map(str),
    st.floats(-1e15, 1e15).map(lambda value: repr(float(f"{value:.3e}"))),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=30))
def test_numbers_keep_all_digits(texts):
    assert read(texts, Reading()) == [Fraction(round(Decimal(text) * ONE), ONE) for text in texts]


def test_what_is_no_number_of_64_bits_is_not_read():
    texts = ["9223372036854775808", "18446744073709551615", "1e19", "1e400", "nan", "inf", "one", "", "2018-07-15"]
    assert read(texts, Reading()) == [None] * len(texts)


@settings(max_examples=40, deadline=None)
@given(
    st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30)),
    st.sampled_from([None, *ZONES]),
    st.sampled_from("T "),
    st.integers(0, 999_999),
)
def test_dates_are_the_instants_they_state(moment, zone, between, behind):
    there = moment.replace(tzinfo=zone or UTC)
    clock = there.strftime(f"%m-%d{between}%H:%M:%S.%f")
    digits = f"{there.year}-{clock}{behind:06}"
    offset = there.strftime("%z")
    colon = f"{offset[:3]}:{offset[3:]}"
    if zone and abs(hours := int(offset[:3])) < 10:
        short = f"{offset[0]}{abs(hours)}{f':{offset[3:]}' * (offset[3:] != '00')}"
        assert (
            read([digits + short, f"{digits} {short}"], Reading(True)) == [micro(there) + Fraction(behind, 10**6)] * 2
        )
    ends = ["", "Z", " UTC", "UTC", "z", " Z", " GMT"] if zone is None else [offset, colon, f" {offset}", f" {colon}"]
    value = micro(there) + Fraction(behind, 10**6)
    assert read([digits + end for end in ends], Reading(True)) == [value] * len(ends)
    assert read([digits.replace(".", ",") + end for end in ends], Reading(True)) == [value] * len(ends)
    assert seconds(digits + ends[0], Fraction(1), "--test-from") == value / 10**6


@settings(max_examples=40, deadline=None)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)))
def test_named_zones_are_read(moment):
    there = moment.replace(microsecond=0, tzinfo=ZoneInfo("Europe/Berlin"))
    if (
        there.astimezone(UTC).astimezone(there.tzinfo) != there
        or there.replace(fold=1).utcoffset() != there.utcoffset()
    ):
        return  # no such time on that clock, or two
    assert read([f"{moment:%Y-%m-%d %H:%M:%S} Europe/Berlin"], Reading(True)) == [micro(there)]


def test_dates_that_are_none_or_ambiguous_are_not_read():
    texts = [
        "2023-11-15 -5:30",
        "2023-11-15-5:30",
        "2023-11-15 20:30+530",
        "2016-12-31 23:59:60",
        "2023-02-30",
        "15-07-18",
        "15.07.2018",
        "01/02/2023",
        "2023-11-15 25:00",
        "20180715",
        "2018",
        "1-07-2018",
    ]
    assert read(texts, Reading(True)) == [None] * len(texts)


FORMATS = {
    "Last.fm": lambda moment: f"{moment:%d %b %Y, %H:%M}",
    "Last.fm, one digit": lambda moment: f"{moment.day} {moment:%b %Y, %H:%M}",
    "mail": format_datetime,
    "mail, GMT": lambda moment: format_datetime(moment, usegmt=True),
    "month first": lambda moment: f"{moment:%b %d, %Y %H:%M}",
    "Takeout": lambda moment: f"{moment:%b %d, %Y, %I:%M:%S %p} UTC",
    "full month": lambda moment: f"{moment:%d %B %Y %H:%M:%S}",
    "day": lambda moment: f"{moment:%d-%b-%Y}",
    "web server": lambda moment: f"{moment:%d/%b/%Y:%H:%M:%S +0000}",
    "C": lambda moment: f"{moment:%a %b %d %H:%M:%S %Y}",
    "half days": lambda moment: f"{moment:%Y-%m-%d %I:%M %p}",
}


@pytest.mark.parametrize("name", FORMATS)
def test_common_forms_that_are_unambiguous_need_no_option(name):
    moments = [datetime(2023, 11, 16, 21, 58, tzinfo=UTC) - timedelta(days=40, hours=7) * step for step in range(12)]
    texts = [FORMATS[name](moment) for moment in moments]
    reading = reading_of(engine, pa.array(["?", "0", *texts, None]), CONFIG)
    if name == "full month":
        assert reading_of(engine, pa.array(["16 May 2023 11:58:00"]), CONFIG) == reading
    days = [moment.replace(hour=0, minute=0) for moment in moments]
    assert read(texts, reading) == [micro(moment) for moment in (days if name == "day" else moments)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("01/02/2023", "--time-format '%d/%m/%Y'"),
        ("01.02.2023 10:00", "--time-format '%d.%m.%Y %H:%M'"),
        ("1/31/23, 9:05:30", "--time-format '%m/%d/%y, %H:%M:%S'"),
        ("31-01-2023T09:05:30.25", "--time-format '%d-%m-%YT%H:%M:%S.%f'"),
        ("11/16/2023 9:58 PM", "--time-format '%m/%d/%Y %I:%M %p'"),
    ],
)
def test_the_format_that_a_message_names_reads_the_value(text, says):
    assert says in expected_place(text)
    pattern = says.split("'")[1]
    expected = datetime.strptime(text, pattern).replace(tzinfo=UTC)
    assert read([text], Reading(True, pattern)) == [micro(expected)]


def test_the_message_names_the_kind_of_the_column():
    assert "a number of less than 2^63" in expected_place("18446744073709551615")
    for text in ("4e20", "-4.5E+20", "1e400", "9" * 5000):
        assert "a number of less than 2^63" in expected_place(text)
    for text in ("1700000000", "1.7e9"):
        assert "not a number" in expected_place(text)
    assert "write 59 for the 60 of a leap second" in expected_place("2016-12-31T23:59:60Z")
    assert "what most of the first rows have" in expected_place("2023-11-15")


places = st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, ONE - 1))
near = st.tuples(st.integers(-2, 2), st.sampled_from([0, 1, ONE // 2, ONE - 1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(places | near, min_size=2, max_size=20), st.fractions(0, 4) | st.integers(0, 2**65).map(Fraction))
def test_blocks_compare_as_fractions(pairs, limit):
    pairs = sorted(pairs)
    values = [whole + Fraction(part, ONE) for whole, part in pairs]
    for parts in (True, False):
        if not parts:
            values = [Fraction(whole) for whole, _ in pairs]
        arrays = [pa.array(column, pa.int64()) for column in zip(*pairs, strict=True)]
        block = pa.table(arrays, names=["place", "fraction"]).select(["place", *["fraction"] * parts])
        steps = [after - before for before, after in zip(values, values[1:], strict=False)]
        apart = distance(block, slice(None, -1), slice(1, None))
        assert at_least(apart, limit).tolist() == [step >= limit for step in steps]
        assert more_than(apart, limit).tolist() == [step > limit for step in steps]
        assert at_least(exact(block), -limit).tolist() == [value >= -limit for value in values]
        assert np.sign(np.diff(ranks(block).astype(object))).tolist() == [(step > 0) for step in steps]


def run(folder: Path, rows: list[tuple], parquet: bool = False, **options) -> list[list[str]]:
    """The tracks of the sessions of `who`, `at`, `what`, in the order of their ids."""
    who, at, what = zip(*rows, strict=True)
    table = pa.table({"who": who, "at": pa.array(at) if parquet else [str(value) for value in at], "what": what})
    log = folder / ("log.parquet" if parquet else "log.csv")
    if parquet:
        pq.write_table(table, log)
    else:
        log.write_text("".join(f'{a},"{b}",{c}\n' for a, b, c in [("who", "at", "what"), *rows]))
    names = {"session": "who", "track": "what", "order": "at"}
    prepare(PrepareConfig(input=(log,), output=folder / "data", overwrite=True, **{**names, **options}))
    tracks = pq.read_table(folder / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    sessions = pq.read_table(folder / "data" / "sessions").sort_by("session_id")["tracks"].to_pylist()
    return [[tracks[row] for row in session] for session in sessions]


@pytest.mark.parametrize("parquet", [False, True])
def test_snowflakes_sort_and_pass_the_check_of_order(parquet, tmp_path):
    first = 1_234_567_890_123_456_789
    rows = [(f"s{session}", first + 1000 * session + play, f"t{play}") for session in range(3) for play in range(4)]
    expected = [["t0", "t1", "t2", "t3"]] * 3
    assert run(tmp_path, rows, parquet) == expected
    assert run(tmp_path, rows[::-1], parquet, sort=True) == expected
    with pytest.raises(UserError, match="expected a number of less than 2\\^63"):
        run(tmp_path, [*rows[:11], ("s2", 2**64 - 1, "t3")], sort=True)


@pytest.mark.parametrize(("unit", "step"), [("5s", 12), ("100ms", 600), ("ns", 60 * 10**9), ("1m", 1), ("0.5h", 1)])
def test_a_pause_is_measured_in_any_unit(unit, step, tmp_path):
    """Plays a minute apart (half an hour in the last case); the pause is one longer than the gap."""
    gap = "30m" if unit == "0.5h" else "1m"
    at = [0, step, 2 * step, 3 * step + 1, 4 * step + 1, 5 * step + 1]
    rows = [("u", time, f"t{play}") for play, time in enumerate(at)]
    assert run(tmp_path, rows, gap=gap, time_unit=unit) == [["t0", "t1", "t2"], ["t3", "t4", "t5"]]


def test_nanoseconds_of_a_parquet_file_are_not_lost(tmp_path):
    at = pa.array([1_700_000_000_123_456_700 + step for step in range(5)], pa.timestamp("ns", "Asia/Kolkata"))
    table = pa.table({"who": ["s"] * 5, "at": at, "what": list("abcde")})
    pq.write_table(table, tmp_path / "log.parquet")
    names = {"session": "who", "track": "what", "order": "at"}
    prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data", **names))


def test_a_given_format_is_the_only_one(tmp_path):
    rows = [("u", f"0{day}/02/2023 10:00", f"t{day}") for day in (3, 1, 2)]
    assert run(tmp_path, rows, sort=True, time_format="%d/%m/%Y %H:%M") == [["t1", "t2", "t3"]]
    with pytest.raises(UserError, match="line 2: at is '03/02/2023 10:00': .* --time-format '%d/%m/%Y %H:%M'"):
        run(tmp_path, rows, sort=True)
    with pytest.raises(UserError, match="line 5: at is '2023-02-01'"):
        run(tmp_path, [*rows, ("u", "2023-02-01", "t4")], sort=True, time_format="%d/%m/%Y %H:%M")
    with pytest.raises(UserError, match="--time-format '%Q' is no format"):
        run(tmp_path, rows, sort=True, time_format="%Q")


def test_a_log_that_begins_with_plays_without_a_time_is_read(tmp_path):
    times = [*[""] * 1200, *(f"{minute} Nov 2023, 11:58" for minute in (3, 2, 1))]
    rows = [(f"u{place // 1200}", at, f"t{place % 1200}") for place, at in enumerate(times)]
    assert run(tmp_path, rows, sort=True, on_error="skip") == [["t2", "t1", "t0"]]


def test_numbers_and_dates_in_one_column_are_refused(tmp_path):
    rows = [("u", 1_700_000_000 + play, f"t{play}") for play in range(4)]
    with pytest.raises(UserError, match="line 6: at is '2023-11-15': expected what most of the first rows"):
        run(tmp_path, [*rows, ("u", "2023-11-15", "x")], sort=True)
    with pytest.raises(UserError, match="holds dates and times, which need no unit: leave --time-unit out"):
        run(tmp_path, [("u", "2023-11-15", "x")] * 3, gap="30m", time_unit="ms")


@settings(max_examples=8, deadline=None)
@given(
    steps=st.lists(st.integers(0, 2), min_size=3, max_size=30),
    backwards=st.booleans(),
    kind=st.sampled_from(["number", "date", "Last.fm"]),
    users=st.integers(1, 3),
)
def test_plays_of_the_same_minute_come_out_as_they_were_played(steps, backwards, kind, users, tmp_path_factory):
    """One file from old to new or from new to old, of listeners whose plays stand in turn."""
    minutes = np.cumsum([0, 1, *steps])
    moments = [datetime(2023, 11, 16, tzinfo=UTC) + timedelta(minutes=int(minute)) for minute in minutes]
    write = {"number": lambda m: micro(m) // 10**6, "date": datetime.isoformat, "Last.fm": FORMATS["Last.fm"]}[kind]
    rows = [(f"u{play % users}", write(moment), f"t{play}") for play, moment in enumerate(moments)]
    expected = [tracks for user in range(users) if len(tracks := [f"t{p}" for p in range(user, len(rows), users)]) >= 3]
    if not expected or min(np.ptp(minutes[user::users]) for user in range(users)) == 0:
        return
    folder = tmp_path_factory.mktemp("turn")
    assert run(folder, rows[::-1] if backwards else rows, gap="30m") == expected


@pytest.mark.parametrize(
    ("times", "others", "told"),
    [
        ([0, 60, 240], [1, 61, 241], True),
        ([0, 60, 240], [0, 60, 300], False),
        ([0, 60, 240], [5001, 5060, 5300], False),
        ([0, 60], [1, 61, 241], False),
        ([1, 60, 240], [0, 61, 241], False),
    ],
)
@pytest.mark.parametrize("unit", ["s", "ms", "dates", None])
def test_times_of_different_exactness_are_told_of(times, others, told, unit, tmp_path, capsys):
    def written(second: int) -> str:
        at = 1_700_000_040 + second
        return (
            datetime.fromtimestamp(at, UTC).isoformat() if unit == "dates" else f"{at * (1000 if unit == 'ms' else 1)}"
        )

    (tmp_path / "log").mkdir()
    for name, of in (("a", times), ("b", others)):
        (tmp_path / "log" / f"{name}.csv").write_text("at,what\n" + "".join(f"{written(at)},{at}\n" for at in of))
    options = {"sort": True} if unit is None else {"gap": "30m", "time_unit": None if unit == "dates" else unit}
    config = PrepareConfig(input=(tmp_path / "log",), output=tmp_path / "data", user="me", track="what", order="at")
    prepare(replace(config, **options))
    said = "a.csv has times to the minute and b.csv more exact ones" in capsys.readouterr().err
    assert said == (told and unit is not None)


def prepared_pages(folder: Path, pages: list[list[tuple]]) -> list[str]:
    """The tracks of the only session of files `page-1.csv`, ... of times and tracks."""
    for page, rows in enumerate(pages, 1):
        lines = [f'u,"{at}",{what}\n' for at, what in rows]
        (folder / f"page-{page}.csv").write_text("who,at,what\n" + "".join(lines))
    names = {"session": "who", "track": "what", "order": "at"}
    prepare(PrepareConfig(input=(folder,), output=folder / "data", gap="30m", **names))
    tracks = pq.read_table(folder / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    (session,) = pq.read_table(folder / "data" / "sessions")["tracks"].to_pylist()
    return [tracks[row] for row in session]


def test_pages_from_new_to_old_follow_one_another(tmp_path):
    """The play before a page's end has the minute of the next page's first."""
    plays = [(f"16 Nov 2023, 11:{minute:02}", f"t{play}") for play, minute in enumerate([1, 2, 5, 5, 5, 5, 8, 9])]
    assert prepared_pages(tmp_path, [plays[:3:-1], plays[3::-1]]) == [f"t{play}" for play in range(8)]


@pytest.mark.parametrize("cuts", [(1,), (3,), (4,), (3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8)])
@pytest.mark.parametrize("first", ["new", "old"])
def test_pages_without_a_step_follow_the_others(cuts, first, tmp_path):
    """One row, or rows of one time, say nothing of a page's direction; pages of one time stand as the others do."""
    times = [100, 100.25, 200, 200, 200, 200, 200, 200, 300, 400, 500]
    plays = [(1_700_000_000 + at, f"t{play:02}") for play, at in enumerate(times)]
    ends = [0, *cuts, len(plays)]
    pages = [plays[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    pages = [page[::-1] for page in reversed(pages)] if first == "new" else pages
    assert prepared_pages(tmp_path, pages) == [what for _, what in plays]


def test_pages_without_a_step_stand_as_written_where_the_others_differ(tmp_path):
    pages = [[(30, "c"), (20, "b"), (10, "a")], [(40, "d"), (40, "e")], [(50, "f"), (60, "g")]]
    assert prepared_pages(tmp_path, pages) == list("abcdefg")


def test_files_of_months_that_run_from_new_to_old_stand_from_old_to_new(tmp_path):
    months = [[(20, "b"), (10, "a")], [(30, "c")], [(30, "d")], [(50, "f"), (40, "e")]]
    assert prepared_pages(tmp_path, months) == list("abcdef")


def test_of_files_that_begin_at_one_time_the_shorter_is_earlier(tmp_path):
    files = [[(20, "b"), (10, "a")], [(50, "e"), (30, "d")], [(30, "c")], [(70, "g"), (60, "f")]]
    assert prepared_pages(tmp_path, files) == list("abcdefg")


def test_a_file_runs_from_new_to_old_within_one_second(tmp_path):
    assert prepared_pages(tmp_path, [[(5.75, "d"), (5.5, "c"), (5.5, "b"), (5.25, "a")]]) == list("abcd")
