"""The formats that a log may have: each is read as the same plays, or refused with what to do."""

import bz2
import gzip
import json
import lzma
import re
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare import PrepareConfig, cut_records, json_rows, log_files, prepare, read_rows
from skipwise.datapipes.prepare.sources import Log

PLAYS = [("u", "a b", "10"), ("u", 'Söng, "8"', "20"), ("v", "a b", "5"), ("v", "x;y", "7")]
ROLES = {"session": "user", "track": "song", "order": "at"}


def plays(path: Path, **options) -> list[tuple]:
    """What is read of a log: session, track and order of each row, in order; no row is bad."""
    options = {**ROLES, **options}
    found = []
    for source in Log(PrepareConfig(input=(path,), output=Path("out"), **options)):
        for batch in read_rows.read(source, lambda size: None):
            assert set(batch["mark"].to_pylist()) <= {0}
            found += zip(*(batch[role].to_pylist() for role in ROLES if role in source.roles), strict=True)
    return found


def separated(delimiter: str, end: str = "\n", quote: bool = True, head: str = "user,song,at") -> str:
    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quote and (delimiter in text or '"' in text) else text

    return "".join(delimiter.join(map(field, row)) + end for row in [head.split(","), *PLAYS])


def as_json(plays: list[tuple]) -> list[dict]:
    return [{"user": user, "song": song, "at": int(at), "extra": {"a": [1]}} for user, song, at in plays]


LINES = "".join(json.dumps(row) + "\n" for row in as_json(PLAYS))
TEXTS = {
    "commas.csv": separated(","),
    "semicolons.csv": separated(";"),
    "tabs.csv": separated("\t"),
    "pipes.csv": separated("|"),
    "excel.csv": "sep=;\n" + separated(";", "\r\n"),
    "mac.csv": separated(",", "\r"),
    "mark.csv": "\ufeff" + separated(","),
    "blanks.csv": separated(",", head=" user , song,at ") + "\n\n,,\n,,\n",
    "joined.csv": separated(",") + "user,song,at\n\n",
    "trailing.csv": separated(",", ",\n").replace("at,\n", "at\n", 1),
    "both.csv": separated(",", ",\n"),
    "header.csv": separated(",").replace("at\n", "at,\n", 1),
    "tabs.tsv": separated("\t", quote=False),
    "tabs.log": separated("\t", quote=False),
    "colons.dat": separated("::", quote=False),
    "semicolons.txt": separated(";"),
    "own.inter": separated("\t", quote=False, head="user:token,song:token,at:float"),
    "lines.jsonl": LINES,
    "lines.ndjson": "\n" + LINES.replace("\n", "\r\n\r\n"),
    "mark.json": "\ufeff" + LINES,
    "lines.log": LINES,
    "pretty.txt": json.dumps(as_json(PLAYS), indent=2),
    "array.json": json.dumps(as_json(PLAYS)),
    "pretty.json": json.dumps(as_json(PLAYS), indent=2, ensure_ascii=False),
    "objects.json": "\n".join(json.dumps(row, indent=1) for row in as_json(PLAYS)),
    "unescaped.json": LINES.replace("\\u00f6", "ö"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_way_to_write_a_table_is_read_alike(name, tmp_path):
    (tmp_path / name).write_bytes(TEXTS[name].encode())
    assert plays(tmp_path / name) == PLAYS


@pytest.mark.parametrize("name", ["commas.csv", "tabs.tsv", "colons.dat", "lines.jsonl", "pretty.json"])
def test_compressed_and_utf_16_files_are_read_alike(name, tmp_path):
    data = TEXTS[name].encode()
    for suffix, packed in (
        ("GZ", gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ("zst", pa.compress(data, codec="zstd", asbytes=True)),
        ("bz2", bz2.compress(data)),
        ("xz", lzma.compress(data)),
    ):
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(packed)
        assert plays(path) == PLAYS
        path.write_bytes(packed[: len(packed) // 2])
        with pytest.raises(UserError, match="is cut short or damaged, or is not the"):
            plays(path)
        path.unlink()
    (tmp_path / name).write_bytes(TEXTS[name].encode("utf-16"))
    assert plays(tmp_path / name) == PLAYS
    (tmp_path / "unicode.txt").write_bytes(separated("\t", "\r\n").encode("utf-16"))  # as Excel writes it
    assert plays(tmp_path / "unicode.txt") == PLAYS


@pytest.mark.parametrize("codec", ["gzip", "zstd", "xz"])
def test_what_is_in_a_file_tells_what_its_name_does_not(codec, tmp_path):
    data = TEXTS["commas.csv"].encode()
    packed = lzma.compress(data) if codec == "xz" else pa.compress(data, codec=codec, asbytes=True)
    (tmp_path / "log.csv").write_bytes(packed)
    assert plays(tmp_path / "log.csv") == PLAYS
    table = dict(zip(ROLES.values(), map(list, zip(*PLAYS, strict=True)), strict=True))
    pq.write_table(pa.table(table), tmp_path / "log.csv")
    assert plays(tmp_path / "log.csv") == PLAYS


def test_a_delimiter_that_is_given_is_taken(tmp_path):
    (tmp_path / "log.csv").write_text("1;2,5;3\n1;2,6;4\n")
    named = {"columns": ("user", "song", "at")}
    assert plays(tmp_path / "log.csv", **named) == [("1", "2,5", "3"), ("1", "2,6", "4")]
    (tmp_path / "log.txt").write_text("user//song//at\n1//a/b//3\n")
    assert plays(tmp_path / "log.txt", delimiter="//") == [("1", "a/b", "3")]
    (tmp_path / "log.txt").write_text("user\tsong at\n1\ta 3\n")
    assert plays(tmp_path / "log.txt", delimiter="\\t", order="file", track="song at") == [("1", "a 3")]
    with pytest.raises(ValueError, match="--delimiter"):
        PrepareConfig(input=(tmp_path,), output=tmp_path, delimiter="\n")


def test_lines_of_tracks_are_sessions(tmp_path):
    (tmp_path / "toys.txt").write_text("1 10 11\n\n2 10 \n3 12 13 14\n")
    expected = [("1", "10"), ("1", "11"), ("2", "10"), ("3", "12"), ("3", "13"), ("3", "14")]
    assert plays(tmp_path / "toys.txt") == expected
    (tmp_path / "words.txt").write_text("u a b\nv c\n")
    with pytest.raises(UserError, match="--columns .--columns user track... where a line holds a session and all"):
        plays(tmp_path / "words.txt")
    (tmp_path / "words.tsv").write_text("u\ta b\tc\nv\td\te\n")
    named = {"columns": ("who", "what..."), "session": "who", "track": "what", "order": "file"}
    assert plays(tmp_path / "words.tsv", **named) == [("u", "a b"), ("u", "c"), ("v", "d"), ("v", "e")]


def test_values_inside_others_have_dotted_names(tmp_path):
    rows = [
        {"who": {"id": 7}, "listens": [{"at": 1, "meta": {"song": "a"}}, {"meta": {"song": None}}]},
        {"who": {"id": 8}, "listens": []},
        {"listens": [{"at": 3, "meta": {"song": "c"}}], "who": {"id": 9}},
    ]
    expected = [("7", "a", "1"), ("7", None, None), ("9", "c", "3")]
    named = {"session": "who.id", "track": "listens.meta.song", "order": "listens.at"}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plays(tmp_path / "log.jsonl", **named) == expected
    (tmp_path / "one.json").write_text(json.dumps({"payload": rows[0]}))
    inside = {role: f"payload.{name}" for role, name in named.items()}
    assert plays(tmp_path / "one.json", **inside) == expected[:2]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    assert plays(tmp_path / "log.parquet", **named) == expected


def test_a_row_may_hold_the_plays_of_a_session(tmp_path):
    for kind in (
        pa.list_(pa.int64()),
        pa.large_list(pa.int32()),
        pa.list_(pa.string()),
        pa.list_(pa.int16(), 2),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ):
        values = [[1, 2], [3, 4], None, [5, 6]]
        text = pa.types.is_string(kind.value_type) or pa.types.is_dictionary(kind.value_type)
        values = [of and [str(one) for one in of] for of in values] if text else values
        table = pa.table({"user": [1, 2, 3, 4], "song": pa.array(values, kind), "at": [[7, 8], [9, 9], [], [1, 2]]})
        pq.write_table(table, tmp_path / "log.parquet")
        assert plays(tmp_path / "log.parquet") == [
            ("1", "1", "7"), ("1", "2", "8"), ("2", "3", "9"), ("2", "4", "9"), ("4", "5", "1"), ("4", "6", "2")
        ]  # fmt: skip
    table = pa.table({"user": ["a", "b"], "song": [["x"] * 3, ["y"] * 4], "at": [[1, 2, 3], [1, 2]]})
    pq.write_table(table, tmp_path / "log.parquet")
    config = {"input": (tmp_path / "log.parquet",), "output": tmp_path / "out", **ROLES}
    with pytest.raises(UserError, match=r"log.parquet, row 2 has lists of different lengths: expected as many values"):
        prepare(PrepareConfig(**config))
    assert prepare(PrepareConfig(**config, on_error="skip")).counts["plays"] == 3


def test_long_lists_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(read_rows, "PARQUET_BATCH", 100)
    table = {"user": [*range(20)], "song": [[f"{user}-{at}" for at in range(40)] for user in range(20)]}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    (source,) = Log(PrepareConfig(input=(tmp_path,), output=tmp_path, **(ROLES | {"order": "file"})))
    batches = list(read_rows.read(source, lambda size: None))
    assert max(map(len, batches)) == 80
    assert [song for batch in batches for song in batch["track"].to_pylist()] == sum(table["song"], [])
    assert [row for batch in batches for row in batch["row"].to_pylist()] == [*range(800)]


def test_bytes_of_a_uuid_are_its_text(tmp_path):
    ids = [uuid.UUID(int=number << 90 | 5) for number in range(3)]
    raw = pa.array([one.bytes for one in ids[:2]] + [None], pa.binary(16))
    for column in (raw, pa.ExtensionArray.from_storage(pa.uuid(), raw)):
        pq.write_table(pa.table({"user": ["u"] * 3, "song": column, "at": [1, 2, 3]}), tmp_path / "log.parquet")
        assert [track for _, track, _ in plays(tmp_path / "log.parquet")] == [str(ids[0]), str(ids[1]), None]


def test_folders_are_searched_and_their_names_are_columns(tmp_path):
    log = tmp_path / "track=above" / "log"
    for folder in ("at=3/user=a%20b", "at=2", "at=__HIVE_DEFAULT_PARTITION__", "_temporary", ".hidden"):
        (log / folder).mkdir(parents=True)
    pq.write_table(pa.table({"song": ["x"]}), log / "at=3" / "user=a%20b" / "part-0.parquet")
    (log / "at=2" / "part-1.jsonl").write_text('{"song": "y", "user": "own"}\n')
    (log / "at=__HIVE_DEFAULT_PARTITION__" / "part-2.csv").write_text("user,song\nu,z\n")
    for name in ("_SUCCESS", ".part.csv.crc", ".part.csv", "_temporary/part.csv", ".hidden/part.csv"):
        (log / name).write_text("not a log")
    assert plays(log) == [("a b", "x", "3"), ("own", "y", "2"), ("u", "z", None)]
    with pytest.raises(UserError, match="has no column 'at'"):
        plays(log / "at=2")


def test_a_log_of_one_listener_needs_no_column_of_them(tmp_path):
    for name in ("anna.csv", "bert.csv"):
        (tmp_path / name).write_text("song,at\nx,1\n")
    with pytest.raises(
        UserError, match="--session .or where no column tells listeners apart --user NAME, or --user file"
    ):
        plays(tmp_path)
    assert plays(tmp_path, session="session_id", user="me") == [("me", "x", "1")] * 2
    assert plays(tmp_path, session="session_id", user="file") == [("anna", "x", "1"), ("bert", "x", "1")]
    with pytest.raises(ValueError, match="in place of --session"):
        plays(tmp_path, user="me")


@pytest.mark.parametrize(
    ("names", "users"),
    [
        (["john.doe.csv", "john.smith.CSV"], ["john.doe", "john.smith"]),
        (["ann.b.csv.gz", "ann.c.tsv.xz", "x/ann.parquet"], ["ann", "ann.b", "ann.c"]),
        (["d/alice/plays.csv", "d/bob/plays.csv", "d/bob/more.csv"], ["alice/plays", "bob/more", "bob/plays"]),
        (["a/plays.csv", "plays.csv"], ["a/plays", "plays"]),
        (["s=1/plays.csv", "s=2/plays.csv"], ["s=1/plays", "s=2/plays"]),
    ],
)
def test_no_two_files_are_taken_for_one_listener(names, users, tmp_path, monkeypatch):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"song": ["x"], "at": [1]}), path)
        else:
            pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
            path.write_bytes(pack(b"song\tat\nx\t1\n" if ".tsv" in name else b"song,at\nx,1\n"))
    own = {"session": "session_id", "user": "file"}
    assert sorted(user for user, _, _ in plays(tmp_path, **own)) == users
    monkeypatch.chdir(tmp_path)
    each = PrepareConfig(input=(*map(Path, names),), output=Path("out"), track="song", order="at", user="file")
    assert sorted(str(source.fixed["--user"]) for source in Log(each)) == users
    (tmp_path / "bert.csv").write_text("song,at\nx,1\n")
    (tmp_path / "bert.txt").write_text("song\tat\nx\t1\n")
    with pytest.raises(UserError, match="bert.csv and .*bert.txt would both be of the listener 'bert' .* rename one"):
        plays(tmp_path, **own)


@pytest.mark.parametrize("inputs", [("log", "log/user=u"), ("log/user=u", "log")])
def test_a_file_that_is_named_twice_has_all_its_folders_columns(inputs, tmp_path):
    (tmp_path / "log" / "user=u").mkdir(parents=True)
    (tmp_path / "log" / "user=u" / "part.csv").write_text("song,at\nx,1\n")
    config = PrepareConfig(input=tuple(tmp_path / name for name in inputs), output=tmp_path, **ROLES)
    assert [source.fixed for source in Log(config)] == [{"user": "u"}]


def test_several_columns_make_one_id_that_tells_all_apart(tmp_path):
    rows = [("A | B", "C"), ("A", "B | C"), ("A |", "B"), ("A", "| B"), ("A", ""), ("", "B"), ("A", "B")]
    (tmp_path / "log.csv").write_text("artist,title,at\n" + "".join(f"{one},{two},1\n" for one, two in rows))
    ids = plays(tmp_path / "log.csv", session=("at", "at"), track=("artist", "title"))
    assert ids[-1] == ("1 | 1", "A | B", "1")
    assert [track for _, track, _ in ids[4:6]] == [None, None]
    assert len({track for _, track, _ in ids if track}) == 5
    config = {"input": (tmp_path / "log.csv",), "output": tmp_path / "out", "order": "file", "user": "me"}
    with pytest.raises(UserError, match=r"log.csv, line 6: artist \+ title is empty: expected a track id"):
        prepare(PrepareConfig(**config, track=("artist", "title")))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("log.jsonl", LINES + '{"user": "u", "so\n' + LINES, "line 5 is not JSON: expected a JSON object"),
        ("log.jsonl", LINES + "\n" + '{"user": "u"}\n', "line 6: song is empty: expected a track id"),
        ("log.json", json.dumps(as_json([*PLAYS, ("w", "", "1")]), indent=1), "line 42: song is empty"),
        ("log.json", json.dumps(as_json(PLAYS), indent=1)[:-3], "line 32 begins what the end of the file cuts short"),
        ("log.json", json.dumps(as_json(PLAYS), indent=1)[:-1], "line 42 begins what the end of the file cuts short"),
        ("log.json", "[3, 4]", "line 1 holds a value that is no object"),
        ("log.json", "[" + LINES.replace("\n", ",") + "]]", "line 1 holds a value that is no object, or a bracket"),
        ("log.dat", separated("::", quote=False) + "u::x::soon\n", "line 6: at is 'soon'"),
        ("log.dat", separated("::", quote=False) + "u::x\n", "line 6 has 2 fields: expected 3 as its columns"),
    ],
)
def test_bad_records_are_named_by_their_line(name, text, says, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        prepare(PrepareConfig(input=(tmp_path / name,), output=tmp_path / "out", sort=True, **ROLES))
    assert f"{name}, {says}" in str(caught.value)


def test_a_bad_line_of_json_is_a_bad_row(tmp_path):
    (tmp_path / "log.jsonl").write_text(LINES + '{"user": "u", "so\n' + '{"user": "v", "song": "n", "at": 9}\n')
    config = PrepareConfig(input=(tmp_path / "log.jsonl",), output=tmp_path / "out", on_error="skip", **ROLES)
    manifest = prepare(config)
    assert manifest.dropped_rows == {"not JSON": 1}
    assert manifest.counts["plays"] == 3


@pytest.mark.parametrize("indent", [None, 1])
def test_numbers_of_json_keep_all_digits(indent, tmp_path):
    numbers = ["1700000000.000000900", "1700000000.12345678", "-1.7000000000000000009e9", "123456789012345678.5"]
    numbers += ["1234567890123456789012", "0.25", "7"]
    text = '{"user": "a 1.123456789012345678 \\\\", "song": "\\"1.123456789012345678", "at": 0}'
    rows = [json.dumps(json.loads(text), indent=indent).replace(": 0", f": {number}") for number in numbers]
    (tmp_path / "log.json").write_text("\n".join(rows))
    one = ("a 1.123456789012345678 \\", '"1.123456789012345678')
    assert plays(tmp_path / "log.json") == [(*one, number) for number in numbers]
    for text in ('{"at": 1.123456789012345678', '{"at": 01.123456789012345678}', '{"at": 1.123456789012345678x}'):
        assert json_rows.JsonReader({"at": "DOUBLE"}, {("at",)}).read(pa.array([text])).to_pylist() == [None]


JSON_NUMBERS = st.recursive(
    st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text('"\\\\1.', max_size=30),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text('"\\\\1.', max_size=3), of, max_size=3),
)


@given(record=st.dictionaries(st.text('"\\\\1.', max_size=25), JSON_NUMBERS, max_size=3))
def test_only_long_numbers_become_strings(record):
    def number(text: str) -> str | float:
        whole = re.sub("[eE].*", "", text)
        long = len(re.findall("[0-9]", whole)) > json_rows.DIGITS and not whole.startswith(("0", "-0"))
        return text if long else float(text)

    text = json.dumps(record)
    (found,) = json_rows.exact_numbers(pa.array([text])).to_pylist()
    assert json.loads(found) == json.loads(text, parse_float=number)


def test_a_column_that_begins_late_is_refused_with_what_helps(tmp_path):
    rows = [
        json.dumps({"user": "u", "song": "s", "at": at} | ({"skip": True} if at > 10_000 else {}))
        for at in range(10_003)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(rows))
    for option in ({"skip": "skip"}, {"where": "skip"}):
        with pytest.raises(
            UserError, match="no column 'skip'.* first 10,000 records .* give an early one that field, wi"
        ):
            plays(tmp_path / "log.jsonl", **option)
    rows[5] = rows[5].replace("}", ', "skip": null}')
    (tmp_path / "log.jsonl").write_text("\n".join(rows))
    (source,) = Log(PrepareConfig(input=(tmp_path,), output=tmp_path, skip="skip", **ROLES))
    found = [one for batch in read_rows.read(source, lambda size: None) for one in batch["skip"].to_pylist()]
    assert found == [None] * 10_001 + ["true"] * 2


def test_an_optional_column_that_begins_late_is_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(json_rows, "SAMPLE", 3)
    late = [{}, {}, {}, {"shuffle": True, "other": 1, "skip": "shuffle"}]
    for first, told in (({"song": "s"}, True), ({"song": "s", "meta": {"shuffle": 1}}, False)):
        rows = [json.dumps({"user": "u", "at": at, **first, **more}) + "\n" for at, more in enumerate(late)]
        (tmp_path / "log.jsonl").write_text("".join(rows))
        plays(tmp_path / "log.jsonl")
        assert ("has the field 'shuffle' only behind the records" in (said := capsys.readouterr().err)) == told
        assert "'is_shuffle'" not in said and "'other'" not in said and "'skip_1'" not in said


@pytest.mark.parametrize(("ids", "told"), [((1, "1"), True), ((1, 2), False), (("1", None), False), ((1, [1]), True)])
def test_ids_of_several_kinds_are_told_of(ids, told, tmp_path, capsys):
    rows = [json.dumps({"user": "u", "song": one, "at": at, "odd": one}) + "\n" for at, one in enumerate(ids)]
    (tmp_path / "log.jsonl").write_text("".join(rows))
    plays(tmp_path / "log.jsonl")
    assert ("column 'song' holds values of several kinds" in (said := capsys.readouterr().err)) == told
    assert "'odd'" not in said


def test_a_record_of_another_structure_is_a_bad_row(tmp_path):
    songs = [{"id": "a"}, {"id": "b"}, "c", ["d"], None, {"id": "e"}, {"name": "f"}, {}]
    rows = [json.dumps({"user": "u", "at": at, "song": song, "tags": []}) for at, song in enumerate(songs)]
    (tmp_path / "log.jsonl").write_text("\n".join(rows))
    expected = ["a", "b", None, None, None, "e", None, None]
    assert [song for _, song, _ in plays(tmp_path / "log.jsonl", track="song.id")] == expected


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_quotes_behind_a_backslash_are_quotes(delimiter, tmp_path):
    titles = ['say "hi", "you"', "AC\\", '"', "\\N", 'a\\"b']
    fields = [one.replace("\\", "\\\\").replace('"', '\\"') for one in titles]
    rows = [["u", f'"{one}"', str(at)] for at, one in enumerate(fields)]
    (tmp_path / "log.csv").write_text(
        "\n".join(map(delimiter.join, [["user", "song", "at"], *rows, ["u", r"\N", "9"]]))
    )
    assert [song for _, song, _ in plays(tmp_path / "log.csv")] == [*titles, None]
    (tmp_path / "log.csv").write_text((tmp_path / "log.csv").read_text().replace('"9"', "soon").replace("9", "soon"))
    with pytest.raises(UserError, match="log.csv, line 7: "):
        prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "out", **ROLES))
    for plain in (r'u,"C:\",1', r"u,5\" single,1", r'u,"a \""b""",1', r'u,"a\"",1"' + "\n" + r'u,"b\",2'):
        (tmp_path / "log.csv").write_text(f"user,song,at\n{plain}\n")
        (source,) = Log(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path, **ROLES))
        assert not source.layout.escaped


@given(data=st.text('\\"ab', max_size=12), sizes=st.lists(st.integers(1, 4), max_size=12))
def test_backslashes_are_read_wherever_the_pieces_end(data, sizes):
    ends = np.minimum(np.cumsum([0, *sizes, 30]), len(data)).tolist()
    doubling = log_files.Doubling()
    pieces = [data[start:end].encode() for start, end in zip(ends, ends[1:], strict=False) if end > start]
    out = b"".join(doubling(pa.py_buffer(piece)) for piece in [*pieces, b""]).decode()
    assert out == re.sub(r'\\(["\\])', lambda found: {'"': '""'}.get(found[1], found[1]), data)


def test_one_log_in_two_formats_is_not_read_twice(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.csv").write_text("user,song,at\nu,x,1\n")
    (tmp_path / "log" / "a.jsonl").write_text('{"user": "u", "song": "x", "at": 1}\n')
    with pytest.raises(
        UserError, match="a.csv and .*a.jsonl differ in their format alone: .* give one of them with --inp"
    ):
        plays(tmp_path / "log")
    both = PrepareConfig(input=tuple((tmp_path / "log").iterdir()), output=tmp_path, **ROLES)
    assert len(Log(both)) == 2


def test_columns_are_not_named_where_the_file_does(tmp_path):
    (tmp_path / "log.jsonl").write_text(LINES)
    with pytest.raises(UserError, match="names its columns itself .user, song, at, extra.a.: leave --columns out"):
        plays(tmp_path / "log.jsonl", columns=("a", "b"))


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda of: st.lists(of, max_size=2), max_leaves=4
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=3), max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    chunk=st.integers(1, 40),
    array=st.booleans(),
    ascii=st.booleans(),
)
def test_records_are_cut_as_json_has_them(rows, indent, chunk, array, ascii):
    one = {"indent": indent, "ensure_ascii": ascii}
    text = json.dumps(rows, **one) if array else "\n".join(json.dumps(row, **one) for row in rows)
    for split in (cut_records.value_records, *([] if array or indent is not None else [cut_records.line_records])):
        before, cut_records.CHUNK = cut_records.CHUNK, chunk
        try:
            parts = list(split(pa.BufferReader(text.encode())))
        finally:
            cut_records.CHUNK = before
        assert [json.loads(record) for part in parts for record in part.texts()] == rows
        lines = [part.line(number) for part in parts for number in range(len(part.starts))]
        assert lines == sorted(lines) and all(line <= text.count("\n") + 1 for line in lines)


@given(text=st.text("ab:", max_size=30), sizes=st.lists(st.integers(1, 4), max_size=30))
def test_a_long_delimiter_is_replaced_wherever_the_pieces_end(text, sizes):
    data, replacing = text.encode(), read_rows.Replacing(b"::")
    ends = np.minimum(np.cumsum([0, *sizes, 30]), len(data)).tolist()
    pieces = [data[start:end] for start, end in zip(ends, ends[1:], strict=False) if end > start]
    out = b"".join(replacing(pa.py_buffer(piece)) for piece in [*pieces, b""])
    assert out.decode() == text.replace("::", read_rows.INSTEAD)
