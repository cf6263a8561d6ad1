"""`prepare --explain`: the command line that it proposes works as it is printed, and makes what it shows."""

import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.components.__main__ import run
from skipwise.datapipes.prepare import PrepareConfig, explain
from tests.datapipes.test_known_sources import FILES, FORMS, sessions_of, write

AT = [1700000000 + 60 * number for number in range(3)] + [1700000000 + 9000 + 60 * number for number in range(3)]
SONGS = [f"s{number}" for number in range(6)]
ONE = {"me#1": ["s0", "s1", "s2"], "me#2": ["s3", "s4", "s5"]}
USERS = {"u#1": ["s0", "s1", "s2"], "u#2": ["s3", "s4", "s5"]}
FLAGGED = {"u#1": ["s0-", "s1", "s2-"], "u#2": ["s3", "s4-", "s5"]}
ROWS = [*zip("u" * 6, SONGS, AT, (1, 5, 2, 4, 1, 3), strict=True)]
LISTENS = [
    {"listened_at": at, "track_metadata": {"track_name": song.upper(), "additional_info": {"recording_mbid": song}}}
    for at, song in zip(AT, SONGS, strict=True)
]
LISTS = {"uid": ["u"], "timestamp": [AT], "item_id": [SONGS], "tags": [["a"]]}


def lines(between: str, *rows: tuple) -> str:
    return "".join(between.join(map(str, row)) + "\n" for row in rows)


GUESSED = {
    "plays.csv": (lines(",", ("user_id", "track_id", "timestamp", "stars"), *ROWS), FLAGGED),
    "own.inter": (lines("\t", ("user_id:token", "item_id:token", "timestamp:float", "rating:float"), *ROWS), FLAGGED),
    "headless.tsv": (lines("\t", *ROWS), FLAGGED),
    "headless.dat": (lines("::", *(row[:3] for row in ROWS)), USERS),
    "ms.csv": (lines(";", ("User", "Song Id", "Played At"), *((u, s, 1000 * at) for u, s, at, _ in ROWS)), USERS),
    "dates.csv": ("song,played_at\n" + "".join(f"s{at},2023-11-15T0{4 + at // 3}:0{at}:20Z\n" for at in range(6)), ONE),
    "11.jsonl": (lines("", *((json.dumps(one),) for one in LISTENS)), ONE),
    "lists.parquet": (LISTS, USERS),
    "session.csv": (
        lines(",", ("sessionId", "itemId", "eventTime"), *((u, s, at) for u, s, at, _ in ROWS)),
        {"u": SONGS},
    ),
    "toys.txt": ("u 1\n".replace("u", "7") + "7 2\n7 3\n", {"7": ["1", "2", "3"]}),
    "sequences.txt": ("7 1 2 3\n8 1 2\n", {"7": ["1", "2", "3"]}),
    "titled.csv": (
        lines(",", ("user", "time", "track", "title"), *((u, at, s, "One") for u, s, at, _ in ROWS)),
        USERS,
    ),
    "places.csv": (lines(",", ("user", "song"), *((u, s) for u, s, _, _ in ROWS)), {"u": SONGS}),
    "us.csv": (
        "user,song,time\n" + "".join(f"u,s{at},11/{12 + at // 3}/2023 8:3{at}:00 PM\n" for at in range(6)),
        USERS,
    ),
    "eu.csv": ("user,song,time\n" + "".join(f"u,s{at},0{1 + at // 3}.11.2023 20:3{at}\n" for at in range(6)), USERS),
    "strength.csv": (
        lines(
            ",",
            ("user", "song", "time", "skip"),
            *((u, s, at, (2, 0, 1, 0, 3, 0)[n]) for n, (u, s, at, _) in enumerate(ROWS)),
        ),
        FLAGGED,
    ),
    "words.csv": (lines(",", ("user", "song", "time", "skip"), *((u, s, at, "often") for u, s, at, _ in ROWS)), USERS),
}


def printed(path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[list[str], str]:
    """The words of the proposed command and all lines behind it; explaining writes nothing."""
    monkeypatch.chdir(path.parent)
    before = sorted(path.parent.rglob("*"))
    monkeypatch.setattr("builtins.print", lambda *lines, **_: said.extend(map(str, lines)))
    said: list[str] = []
    run(["prepare", "--explain", path.name, *options])
    monkeypatch.undo()
    assert sorted(path.parent.rglob("*")) == before
    at = next(number for number, line in enumerate(said) if line.startswith("skipwise prepare"))
    return shlex.split(said[at])[1:], "\n".join(said[at + 1 :])


@pytest.mark.parametrize(("name", "content", "expected"), [(name, *of) for name, of in GUESSED.items()])
def test_the_command_that_is_proposed_works(name, content, expected, tmp_path, monkeypatch):
    if isinstance(content, dict):
        pq.write_table(pa.table(content), tmp_path / name)
    else:
        (tmp_path / name).write_text(content)
    command, said = printed(tmp_path / name, monkeypatch)
    monkeypatch.chdir(tmp_path)
    run(command)
    found = sessions_of(tmp_path / "data")
    assert found == expected
    assert "first sessions" in said
    assert all(f"  {session}: " in said for session in found)


@pytest.mark.parametrize(("source", "name", "content", "expected"), FORMS, ids=lambda value: str(value)[:20])
def test_a_source_that_is_known_is_told(source, name, content, expected, tmp_path, monkeypatch):
    (tmp_path / "log").mkdir()
    path = write(tmp_path / "log", name, content) / name
    command, said = printed(path, monkeypatch)
    told = name != "me.csv" and source != "mssd"  # a table without a header line, and the defaults
    assert (f"--source {source}" in " ".join(command)) == told
    monkeypatch.chdir(path.parent)
    run(command)
    assert told is False or sessions_of(path.parent / "data") == expected
    assert told is False or all(f"  {session}: " in said for session in expected)


def test_several_files_are_explained_together(tmp_path, monkeypatch):
    head, *rows = GUESSED["plays.csv"][0].splitlines(keepends=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "plays.csv").write_text(head + "".join(rows[:3]))
    (tmp_path / "more.csv").write_text(head + "".join(rows[3:]))
    command, _ = printed(tmp_path / "a", monkeypatch, str(tmp_path / "more.csv"))
    assert command[1:4] == ["--input", "a", str(tmp_path / "more.csv")]
    monkeypatch.chdir(tmp_path)
    run(command)
    assert sessions_of(tmp_path / "data") == FLAGGED


def test_a_folder_is_explained_by_the_file_that_is_known(tmp_path, monkeypatch):
    name, content, expected = FILES["spotify-history"][0]
    command, _ = printed(write(tmp_path, name, content), monkeypatch)
    assert command[command.index("--source") + 1] == "spotify-history"


def test_a_table_of_titles_names_its_tracks_by_the_logs_column(tmp_path, monkeypatch):
    (tmp_path / "plays.csv").write_text("user,song,time\n" + "".join(f"u,s{at},{at}\n" for at in range(3)))
    (tmp_path / "songs.csv").write_text("song,name\ns1,One\n")
    words = ["--tracks", str(tmp_path / "songs.csv"), "--title", "name", "--track", "song"]
    _, said = printed(tmp_path / "plays.csv", monkeypatch, *words)
    assert "cannot be prepared" not in said and ": s0, s1, s2" in said


def test_given_options_are_kept(tmp_path, monkeypatch):
    (tmp_path / "plays.csv").write_text(GUESSED["plays.csv"][0])
    command, said = printed(tmp_path / "plays.csv", monkeypatch, "--gap", "1h", "--user", "rob", "--skip-below", "2")
    assert command[command.index("--gap") + 1] == "1h" and command[command.index("--user") + 1] == "rob"
    assert "--session" not in command and "  rob#1: s0 (skipped), s1, s2" in said


@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_a_condition_holds_for_the_first_sessions_too(name, tmp_path, monkeypatch):
    table = {"user": ["u"] * 6, "song": SONGS, "time": AT, "track": [5, 50, 500, 6, 7, 8]}
    if name == "log.csv":
        (tmp_path / name).write_text(lines(",", [*table], *zip(*table.values(), strict=True)))
    else:
        pq.write_table(pa.table(table), tmp_path / name)
    command, said = printed(tmp_path / name, monkeypatch, "--track", "song", "--where", "track < 40 OR song = 's1'")
    monkeypatch.chdir(tmp_path)
    run(command)
    assert sessions_of(tmp_path / "data") == {"u#2": SONGS[3:]}
    assert f"  u#2: {', '.join(SONGS[3:])}" in said and "u#1" not in said
    monkeypatch.undo()
    _, said = printed(tmp_path / name, monkeypatch, "--where", "song = 'none'")
    assert "its first 6 rows cannot be prepared so: --where leaves out all of them" in said


def test_what_cannot_be_guessed_says_what_to_name(tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column of .*log.csv seems to be the track .its columns are a, b.: name it"):
        list(explain(PrepareConfig(explain=tmp_path / "log.csv")))
    with pytest.raises(UserError, match="has no column 'c'"):
        list(explain(PrepareConfig(explain=tmp_path / "log.csv", track="c", order="file", user="me")))
    with pytest.raises(ValueError, match="leave --input out"):
        PrepareConfig(explain=tmp_path, input=(tmp_path,))
    with pytest.raises(ValueError, match="--output is missing"):
        PrepareConfig(input=(tmp_path,))
