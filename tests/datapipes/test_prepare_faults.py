"""Bad input: one sentence that names the file and the line, nothing left behind, and sessions dropped on demand."""

import gzip
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare, read_rows
from skipwise.datapipes.prepare.plain_errors import gist
from skipwise.datapipes.prepare.sources import Log

HEAD = "session_id,session_position,track_id_clean,skip_1,skip_2,skip_3,not_skipped,hour_of_day,premium"
GOOD = ["a,1,t1,0,0,0,1,7,1", "a,2,t2,0,0,0,1,7,1", "a,3,t3,0,0,0,1,7,1"]
START = ["b,1,t1,0,0,0,1,7,1", "b,2,t2,1,1,1,0,7,1"]

ROWS = {
    "empty session": (",3,t,0,0,0,1,7,1", "session_id is empty: expected a session id", "no session id"),
    "NaN session": ("NaN,3,t,0,0,0,1,7,1", "session_id is 'NaN': expected a session id", "no session id"),
    "empty track": ("b,3,,0,0,0,1,7,1", "track_id_clean is empty: expected a track id", "no track id"),
    "null track": ("b,3,null,0,0,0,1,7,1", "track_id_clean is 'null': expected a track id", "no track id"),
    "blank track": ("b,3,   ,0,0,0,1,7,1", "track_id_clean is '   ': expected a track id", "no track id"),
    "long blank track": (
        "b,3,\t         \u2003,0,0,0,1,7,1",
        r"track_id_clean is '\t         \u2003': expected a track id",
        "no track id",
    ),
    "huge track": (
        "b,3," + "x" * 10_000_000 + ",0,0,0,1,7,1",
        "track_id_clean is 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' (10,000,000 characters): expected at most 1024 bytes",
        "track id too long",
    ),
    "empty order": (
        "b,,t,0,0,0,1,7,1",
        "session_position is empty: expected a date such as 2018-07-15, a date and",
        "order is not a number",
    ),
    "NaN order": ("b,NaN,t,0,0,0,1,7,1", "session_position is 'NaN': expected a date", "order is not a number"),
    "two-digit year": ("b,15-07-18,t,0,0,0,1,7,1", "session_position is '15-07-18': expected", "order is not a number"),
    "word order": ("b,third,t,0,0,0,1,7,1", "session_position is 'third': expected", "order is not a number"),
    "word flag": ("b,3,t,0,0,maybe,1,7,1", "skip_3 is 'maybe': expected true, false, 1 or 0", "skip_3 is not a flag"),
    "number flag": ("b,3,t,0,2,1,0,7,1", "skip_2 is '2': expected true, false, 1 or 0", "skip_2 is not a flag"),
    "unnested": ("b,3,t,1,0,1,0,7,1", "skip_1 is '1': expected skip_1 to imply skip_2", "contradictory skip flags"),
    "both": ("b,3,t,1,1,1,1,7,1", "not_skipped is '1': expected false beside a skip flag", "contradictory skip flags"),
    "hour 24": (
        "b,3,t,0,0,0,1,24,1",
        "hour_of_day is '24': expected 0 to 23, or nothing",
        "hour_of_day is not an hour",
    ),
    "word premium": ("b,3,t,0,0,0,1,7,gold", "premium is 'gold': expected true, false", "premium is not a flag"),
    "short row": ("b,3,t,0,0", "has 5 fields: expected 9 as its columns", "wrong number of fields"),
    "long row": ("b,3,t,0,0,0,1,7,1,9", "has 10 fields: expected 9 as its columns", "wrong number of fields"),
    "Latin-1": ("b,3,caf\udce9,0,0,0,1,7,1", "has bytes that are not UTF-8", "not UTF-8"),
    "repeated": ("b,2,t,0,0,0,1,7,1", "session_position '2' of session 'b' is in line 6 already", "position twice"),
    "disordered": ("b,1,t,0,0,0,1,7,1", "session 'b' comes after a greater one in line 6", "positions out of order"),
}


def write(path: Path, lines: list[str]) -> Path:
    path.write_bytes("\n".join([*lines, ""]).encode(errors="surrogateescape"))
    return path


def refused(tmp_path: Path, *inputs: Path, **options) -> str:
    """The sentence with which `prepare` refuses, having left nothing behind."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        prepare(PrepareConfig(input=inputs, output=tmp_path / "data", **options))
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_stops_with_its_line_and_each_remedy_leads_to_a_dataset(case, tmp_path):
    row, says, reason = ROWS[case]
    log = write(tmp_path / "log.csv", [HEAD, *GOOD, *START, row, "b,9,t9,0,0,0,1,7,1"])
    sentence = refused(tmp_path, log)
    assert sentence.startswith(f"{log}, line 7")
    assert says in sentence
    remedies = [{option.replace("-", "_"): policy} for option, policy in re.findall(r"--(on-[a-z-]+) (\w+)", sentence)]
    remedies += [{"null": ("",)}] * ("--null ''" in sentence) + [{"sort": True}] * ("--sort" in sentence)
    remedies += [{"context": ()}] * ("--context" in sentence)
    assert len(remedies) >= 1
    for options in remedies:
        prepare(PrepareConfig(input=(log,), output=tmp_path / "data", overwrite=True, **options))
    shutil.rmtree(tmp_path / "data")
    for policy in ("skip", "cut", "session"):
        manifest = prepare(PrepareConfig(input=(log,), output=tmp_path / policy, on_error=policy))
        sessions = sorted(row["session_id"] for row in pq.read_table(tmp_path / policy / "sessions").to_pylist())
        if reason == "no session id":
            assert (manifest.dropped_rows, manifest.dropped_sessions) == ({reason: 1}, {})
            assert manifest.counts["sessions"] == 2
        elif policy == "session":
            assert manifest.dropped_rows == {}
            (found,) = manifest.dropped_sessions.items()
            assert found[0].startswith(reason) and found[1] == 1
            assert manifest.counts == {"sessions": 1, "plays": 3, "tracks": 3}
        else:
            places = "wrong number of fields", "order is not a number"
            cuts = policy == "cut" and reason not in places
            ((found, count),) = manifest.dropped_rows.items()
            assert found.startswith(reason) and found.endswith(", session cut") == cuts and count == 1
            assert sessions == (["a#1"] if cuts else ["a", "b"] if policy == "skip" else ["a#1", "b#1"])
            assert manifest.counts["plays"] == (3 if cuts else 6)


def test_the_line_is_the_one_an_editor_shows(tmp_path):
    head = "session_id,session_position,track_id_clean,title"
    lines = [head, "", 'a,1,t,"two', 'lines"', "", "a,2,t,x", "a,3,,x"]
    assert f"{tmp_path / 'log.csv'}, line 7: track_id_clean is empty" in refused(
        tmp_path, write(tmp_path / "log.csv", lines)
    )


def test_a_session_of_several_faults_is_dropped_once(tmp_path):
    log = write(tmp_path / "log.csv", [HEAD, *GOOD, "b,1,,0,0,0,1,7,1", "b,1,t,1,0,0,1,7,1", "b,x,t,0,0,0,1,7,1"])
    manifest = prepare(PrepareConfig(input=(log,), output=tmp_path / "data", on_error="session"))
    assert manifest.dropped_sessions == {"no track id": 1}


def test_a_short_row_that_ends_before_the_session_counts_as_a_row(tmp_path):
    names = "session_position,track_id_clean,session_id"
    log = write(tmp_path / "log.csv", [names, "1,t,a", "2,t,a", "3,t,a", "4,t"])
    manifest = prepare(PrepareConfig(input=(log,), output=tmp_path / "data", on_error="skip"))
    assert manifest.dropped_rows == {"wrong number of fields": 1}
    assert manifest.counts["plays"] == 3


def test_a_session_in_two_files(tmp_path):
    one = write(tmp_path / "one.csv", [HEAD, *GOOD, *START])
    two = write(tmp_path / "two.csv", [HEAD, "b,3,t9,0,0,0,1,7,1"])
    sentence = refused(tmp_path, one, two)
    assert f"session 'b' is in {one} and in {two}: expected each session in one file" in sentence
    for policy in ("skip", "cut", "session"):
        manifest = prepare(PrepareConfig(input=(one, two), output=tmp_path / policy, on_error=policy))
        assert manifest.dropped_sessions == {"session in two files": 1} and manifest.dropped_rows == {}
    manifest = prepare(PrepareConfig(input=(one, two), output=tmp_path / "sorted", sort=True))
    assert manifest.counts["sessions"] == 2


def test_bad_strengths_and_ratings(tmp_path):
    head, good = "session_id,session_position,track_id_clean,v", ["a,1,t,0", "a,2,t,1", "a,3,t,3"]
    for value, option, says in (
        ("4", "skip_strength", "v is '4': expected 0, 1, 2 or 3"),
        ("1.5", "skip_strength", "v is '1.5': expected 0, 1, 2 or 3"),
        ("inf", "rating", "v is 'inf': expected a number"),
        ("2", "skip", "v is '2': expected true, false, 1 or 0"),
    ):
        rows = [row[:-1] + "0" for row in good] if option == "skip" else good
        log = write(tmp_path / "log.csv", [head, *rows, f"a,4,t,{value}"])
        assert f"{log}, line 5: {says}" in refused(tmp_path, log, **{option: "v"})


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("log.csv", b"", "is empty, or its first line is: expected a header line and rows"),
        ("log.csv", HEAD.encode() + b"\n", "has no rows: expected one a play"),
        ("log.csv", b"session_id,track_id_clean\na,t\n", "has no column 'session_position'"),
        ("log.csv", b"session_id,session_position,track\na,1,t\n", "has no column 'track_id_clean'"),
        ("log.csv", b"1,10\n1,11\n", "has no column 'session_id' (its columns are 1, 10)"),
        ("log.csv", HEAD.replace("skip_2,", "").encode() + b"\n", "has no column 'skip_2'"),
        ("log.csv", (HEAD + ",premium\n").encode(), "has 2 columns named 'premium': rename all but one"),
        ("log.csv", "session_id,caf\u00e9\n".encode("latin-1"), "line 1 is not UTF-8: save the file as UTF-8"),
        ("log.csv", (HEAD + '\na,1,"t1,0,0,0,1,7,1\n' + "a,2,t2,0,0,0,1,7,1\n" * 9).encode(), "line 2"),
        ("log.csv", (HEAD + "\na,1," + "x" * 40_000_000 + ",0,0,0,1,7,1\n").encode(), "a line of tens of megabytes"),
        ("log.csv.gz", gzip.compress("\n".join([HEAD, *GOOD * 999]).encode())[:-99], "is cut short or damaged"),
        (
            "log.csv.gz",
            gzip.compress("\n".join([HEAD, *GOOD * 999]).encode())[:-8] + b"abcdefgh",
            "is cut short or dam",
        ),
        ("log.csv.gz", b"not gzip at all", "damaged, or is not the gzip file its name says: copy it again"),
        ("log.parquet", b"PAR1 but not for long", "is not a Parquet file, or is cut short"),
        ("log.json", b"{}", "line 1 is no JSON object with fields: expected objects, one a play or session"),
        ("log.xlsx", b"PK", "is of no known format: save it as CSV UTF-8; expected .csv, .tsv, .txt"),
        ("log.tar.gz", b"", "is of no known format: unpack it, and name the folder; expected .csv"),
    ],
)
def test_a_bad_file_is_refused_whatever_is_done_with_bad_rows(name, content, says, on_error, tmp_path):
    log = tmp_path / name
    log.write_bytes(content)
    sentence = refused(tmp_path, log, on_error=on_error)
    assert str(log) in sentence
    assert says in sentence


def test_files_of_one_log_hold_the_same_columns(tmp_path):
    one = write(tmp_path / "one.csv", [HEAD, *GOOD])
    two = write(tmp_path / "two.csv", ["session_id,session_position,track_id_clean", "c,1,t", "c,2,t", "c,3,t"])
    assert f"{two} has no column 'hour_of_day', which {one} has" in refused(tmp_path, one, two)
    assert f"{two} has no column 'not_skipped', which {one} has" in refused(tmp_path, one, two, context=())


def test_bad_rows_of_parquet(tmp_path):
    table = {"session_id": ["a", "a", None], "session_position": [1, 2, 3], "track_id_clean": ["t", "t", "t"]}
    pq.write_table(pa.table(table), tmp_path / "log.parquet", row_group_size=2)
    assert f"{tmp_path / 'log.parquet'}, row 3: session_id is empty" in refused(tmp_path, tmp_path / "log.parquet")
    pq.write_table(pa.table({**table, "session_id": [["a"], ["a"], []]}), tmp_path / "log.parquet")
    assert "column 'session_id' holds lists or structs" in refused(tmp_path, tmp_path / "log.parquet")
    entries = pa.MapArray.from_arrays([0, 1, 2, 3], ["k"] * 3, ["a"] * 3)
    for nested, says in (
        ([{"id": "a"}] * 3, "has no column 'session_id' (its columns are session_id.id, session_position, "),
        (pa.array([["a"]] * 3, pa.list_(pa.string(), 1)), "column 'session_id' holds lists or structs"),
        (entries, "column 'session_id' holds lists of lists or maps"),
        ([[["a"]]] * 3, "column 'session_id' holds lists of lists or maps"),
    ):
        pq.write_table(pa.table({**table, "session_id": nested}), tmp_path / "log.parquet")
        assert says in refused(tmp_path, tmp_path / "log.parquet")
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    whole = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(whole[:40] + b"\0" * 60 + whole[100:])
    assert str(tmp_path / "log.parquet") in refused(tmp_path, tmp_path / "log.parquet")


def test_what_is_not_there(tmp_path):
    assert "does not exist: check --input" in refused(tmp_path, tmp_path / "absent.csv")
    (tmp_path / "empty").mkdir()
    assert "empty holds no file of a known format, at any depth: expected .csv" in refused(tmp_path, tmp_path / "empty")
    log = write(tmp_path / "log.csv", [HEAD, *GOOD])
    assert "has 9 columns, --columns names 2" in refused(tmp_path, log, columns=("a", "b"))
    with pytest.raises(UserError, match="choose another --output"):
        prepare(PrepareConfig(input=(log,), output=log / "data"))


def test_the_command_exits_with_2_and_one_line(tmp_path):
    log = write(tmp_path / "log.csv", [HEAD, *GOOD, ROWS["unnested"][0]])
    command = [sys.executable, "-m", "skipwise", "prepare", "--input", str(log), "--output", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"skipwise: {log}, line 5: skip_1 is '1'")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    done = subprocess.run(
        [*command, "--min-length", "1"], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 2
    assert "--min-length must be at least 3" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [*command, "--on-error", "skip"], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0
    assert Manifest.read(tmp_path / "data").dropped_rows == {"contradictory skip flags": 1}


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    rows = (f"s{play // 10},{play % 10},t{play % 977},0,0,0,1,7,1" for play in range(1_500_000))
    log = write(tmp_path / "log.csv", [HEAD, *rows])
    command = [sys.executable, "-m", "skipwise", "prepare", "--input", str(log), "--output", str(tmp_path / "data")]
    process = subprocess.Popen(
        ["nice", "-n", "19", *command, "--threads", "1"],  # so that it is still at work when the signal is sent
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr.readline().startswith("reading")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr.splitlines()[-1] == "skipwise: stopped before the dataset was whole: nothing was written"
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_message_names_no_scratch_directory():
    scratch = "/data/.out.host-7.abc.partial/rows.parquet"
    assert gist(OSError(13, "Permission denied", scratch)) == "[Errno 13] Permission denied: 'rows.parquet'"
    assert gist(RuntimeError(f'IO Error: Cannot open file "{scratch}"')) == 'IO Error: Cannot open file "rows.parquet"'


def test_rows_of_a_wrong_number_of_fields_are_not_kept_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A log of nothing else took several times its size of memory."""
    rows = [f"s{row // 9},{row % 9},t{row % 5}" + (",x" if row % 3 == 1 else "") for row in range(300)]
    log = tmp_path / "log.csv"
    log.write_text("\n".join(["session_id,session_position,track_id_clean", *rows, ""]))
    (source,) = Log(PrepareConfig(input=(log,), output=tmp_path / "out"))
    monkeypatch.setattr(read_rows, "BLOCK", 400)
    monkeypatch.setattr(read_rows, "RAGGED_BATCH", 8)
    batches = list(read_rows.read(source, lambda _: None))
    ragged = [batch for batch in batches if batch["row"].null_count]
    assert max(map(len, ragged)) <= 8 and ragged[-1] is batches[-1] and len(ragged) >= 12
    table = pa.Table.from_batches([batch for batch in batches if not batch["row"].null_count])
    assert table["row"].to_pylist() == list(range(200))
    assert table["track"].to_pylist() == [f"t{row % 5}" for row in range(300) if row % 3 != 1]
    assert [one for batch in ragged for one in batch["track"].to_pylist()] == [
        f"t{row % 5}" for row in range(1, 300, 3)
    ]


@pytest.mark.parametrize("coded", [False, True])
def test_a_line_longer_than_a_small_block_is_read_with_all_before_it(tmp_path: Path, monkeypatch, coded):
    rows = [f"s{row // 9},{row % 9},t{row % 5}" + (",x" if row % 7 == 1 else "") for row in range(300)]
    rows[200] = f"s22,2,{'t' * 900}"
    log = tmp_path / "log.csv"
    log.write_text("\n".join(["session_id,session_position,track_id_clean", *rows, ""]))
    (source,) = Log(PrepareConfig(input=(log,), output=tmp_path / "out"))
    monkeypatch.setattr(read_rows, "BLOCK", 2000)
    monkeypatch.setattr(read_rows, "RAGGED_BATCH", 8)
    for small in (300, 2000):
        monkeypatch.setattr(read_rows, "SMALL_BLOCK", small)
        steps: list[int] = []
        batches = list(read_rows.read(source, steps.append, coded=coded))
        assert sum(steps) == log.stat().st_size and min(steps) >= 0  # though its beginning was read twice
        found = [
            one for batch in batches for one in zip(batch["row"].to_pylist(), batch["track"].to_pylist(), strict=True)
        ]
        fine = [row.split(",") for row in rows if row.count(",") == 2]
        assert [one for one in found if one[0] is not None] == [(at, row[2]) for at, row in enumerate(fine)]
        assert [track for row, track in found if row is None] == [f"t{row % 5}" for row in range(300) if row % 7 == 1]
    monkeypatch.setattr(read_rows, "BLOCK", 400)
    with pytest.raises(UserError, match="holds a line of tens of megabytes"):
        list(read_rows.read(source, lambda _: None, coded=coded))


def test_a_row_of_a_wrong_number_of_fields_is_of_the_session_that_it_names_in_quotes(tmp_path: Path):
    head = "session_id,session_position,track_id_clean"
    rows = [f'"a, ""b""",{place},t{place}' for place in range(4)] + [f"c,{place},t{place}" for place in range(4)]
    log = write(tmp_path / "log.csv", [head, *rows, '"a, ""b""",4,t1,"x, y"', ""])
    prepare(PrepareConfig(input=(log,), output=tmp_path / "out", on_error="session"))
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.counts["sessions"] == 1 and manifest.dropped_sessions == {"wrong number of fields": 1}
