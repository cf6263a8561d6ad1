"""What tracks are called: read from the log or from a table beside it, and carried in the vocabulary."""

from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.datapipes.vocabulary_match import match

NAMES = {"title": "name", "artist": "who"}


def prepared(folder: Path, rows: list[dict], **options) -> Path:
    """Sessions of three plays each, of these rows in turn."""
    plays = [{"session": f"s{place // 3}", "skip": False} | row for place, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(plays), folder / "log.parquet")
    columns = {"session": "session", "track": "track", "order": "file", "skip": "skip"}
    prepare(PrepareConfig(input=(folder / "log.parquet",), output=folder / "data", **columns | options))
    return folder / "data"


def named(data: Path, *names: str) -> dict[str, tuple]:
    rows = pq.read_table(data / "vocabulary.parquet").to_pylist()
    return {row["track_id"]: tuple(row[name] for name in names) for row in rows}


def test_titles_and_artists_by_hand(tmp_path, capsys):
    rows = [
        {"track": "a", "name": "Hello", "who": "X", "album": 1},
        {"track": "b", "name": None, "who": "Z", "album": None},
        {"track": "c", "name": "None", "who": "", "album": 2},
        {"track": "a", "name": "Hello!", "who": "X", "album": 1},
        {"track": "a", "name": "Hello!", "who": "Y", "album": 3},
        {"track": "c", "name": "null", "who": None, "album": 2},
    ]
    data = prepared(tmp_path, rows, **NAMES, keep_track=("album",))
    expected = {"a": ("Hello!", "X", "1"), "b": (None, "Z", None), "c": ("None", None, "2")}
    assert named(data, "title", "artist", "album") == expected
    manifest = Manifest.read(data)
    assert manifest.track_columns == {"title": 2, "artist": 2, "album": 2}
    assert "names of tracks: album 2, artist 2, title 2" in manifest.description()
    said = capsys.readouterr().err
    assert "2 tracks have more than one title" in said and "1 tracks have more than one artist" in said
    assert "more than one album" in said


def test_names_change_nothing_else(tmp_path):
    rows = [{"track": track, "name": track * 2, "who": "X"} for track in "abcacbbca"]
    without, with_names = ((tmp_path / name) for name in ("without", "with"))
    for folder, options in ((without, {}), (with_names, NAMES)):
        folder.mkdir()
        prepared(folder, rows, **options)
    before, after = (Manifest.read(folder / "data") for folder in (without, with_names))
    assert (before.vocabulary_hash, before.data_hash) == (after.vocabulary_hash, after.data_hash)
    assert before.track_columns == {}
    old, new = (pq.read_table(folder / "data" / "vocabulary.parquet") for folder in (without, with_names))
    assert new.select(["track_id", "row", "count"]).equals(old)
    session_file = "data/sessions/part-00000.parquet"
    assert (without / session_file).read_bytes() == (with_names / session_file).read_bytes()


@settings(max_examples=20, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "Y", "é", "", None])), min_size=3))
def test_the_most_frequent_is_kept(pairs, tmp_path_factory):
    pairs = pairs[: len(pairs) // 3 * 3]
    data = prepared(
        tmp_path_factory.mktemp("most"), [{"track": one, "name": name} for one, name in pairs], title="name"
    )
    said: dict[str, Counter] = defaultdict(Counter)
    for track, name in pairs:
        said[track].update([name] if name else [])
    expected = {
        track: (min(counts, key=lambda name: (-counts[name], name.encode()), default=None),)
        for track, counts in ((one, said[one]) for one, _ in pairs)
    }
    assert named(data, "title") == expected


@pytest.mark.parametrize(
    "raw, kept",
    [
        ("  two\r\n lines\t", "two lines"),
        ("\x1b[31mred\x00", "[31mred"),
        ("a\u202eb\u2066c", "a b c"),
        ("شب\u200cهای تهران", "شب\u200cهای تهران"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("\u00a0\u3000", None),
        ("x" * 512, "x" * 512),
        ("x" * 1_000_000, "x" * 511 + "…"),
    ],
)
def test_a_name_is_one_line_of_printable_text(raw, kept, tmp_path, capsys):
    data = prepared(tmp_path, [{"track": "a", "name": raw}, {"track": "b"}, {"track": "c"}], title="name")
    assert named(data, "title") == {"a": (kept,), "b": (None,), "c": (None,)}
    assert ("1 tracks have a title of more than 512 characters" in capsys.readouterr().err) == (len(raw) > 512)


def test_a_title_that_is_not_utf_8_spoils_no_play(tmp_path):
    log = tmp_path / "log.csv"
    log.write_bytes(b'session_id,track_id_clean,title\ns,a,caf\xe9\ns,b,"one, ""two"""\ns,c,\n')
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", order="file", title="title"))
    assert named(tmp_path / "data", "title") == {"a": ("caf\\xe9",), "b": ('one, "two"',), "c": (None,)}
    assert Manifest.read(tmp_path / "data").counts["plays"] == 3


def test_a_line_break_inside_the_quotes_of_an_id_is_called_so(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text('session_id,track_id_clean\ns,a\ns,"b\nc"\ns,d\n')
    expected = r"line 3 has a line break inside the quotes of track_id_clean, 'b\\nc': expected a value of one line"
    with pytest.raises(UserError, match=expected):
        prepare(PrepareConfig(input=(log,), output=tmp_path / "data", order="file"))
    log.write_text('session_id,track_id_clean\ns,a\ns,"b\ns,c\ns,d\n')
    with pytest.raises(UserError, match="line 3 goes on over a line break: expected every quote closed on its line"):
        prepare(PrepareConfig(input=(log,), output=tmp_path / "data", order="file"))


def test_a_quote_that_is_not_closed_takes_no_plays_away(tmp_path):
    log = tmp_path / "log.csv"
    options = {"input": (log,), "output": tmp_path / "data", "order": "file", "title": "title"}
    log.write_text('session_id,track_id_clean,title\ns,a,"x\ns,b,y\ns,c,"z\ns,d,w\n')
    with pytest.raises(UserError, match="line 2 goes on over a line break: expected every quote closed on its line"):
        prepare(PrepareConfig(**options))
    log.write_text('session_id,track_id_clean,title\ns,a,"two, or more,\nlines"\ns,b,y\ns,c,z\n')
    prepare(PrepareConfig(**options))
    assert named(tmp_path / "data", "title")["a"] == ("two, or more, lines",)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("key", ["track", "track_id"])
def test_a_table_beside_the_log(kind, key, tmp_path, capsys):
    beside = tmp_path / f"tracks.{kind}"
    table = pa.table(
        {key: ["b", "q", "a", "a", "a"], "name": ["B", "Q", "A", "Z", "Z"], "who": ["X", "Y", "", "", "V"]}
    )
    pq.write_table(table, beside) if kind == "parquet" else pa.csv.write_csv(table, beside)
    data = prepared(tmp_path, [{"track": track} for track in "abc"], **NAMES, tracks=beside)
    assert named(data, "title", "artist") == {"a": ("Z", "V"), "b": ("B", "X"), "c": (None, None)}
    assert "1 rows are of no track of the log and are ignored, 4 are of its tracks" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, said",
    [
        ({"title": "nome"}, r"has no column 'nome' \(its columns are .*\): name the right one with --title"),
        ({"keep_track": ("nome",)}, "name the right one with --keep-track"),
        ({"title": "name", "tracks": Path("none.csv")}, "none.csv is no file: name one table of tracks with --tracks"),
        ({"title": "name", "tracks": Path(__file__)}, "is of no known format"),
    ],
)
def test_what_cannot_be_read_is_refused(options, said, tmp_path):
    with pytest.raises(UserError, match=said):
        prepared(tmp_path, [{"track": track, "name": track} for track in "abc"], **options)


def test_a_table_beside_the_log_without_ids_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "name": ["A"]}), tmp_path / "tracks.parquet")
    with pytest.raises(
        UserError, match="has no column 'track' .*: give its column of track ids that name, or track_id"
    ):
        prepared(tmp_path, [{"track": one} for one in "abc"], title="name", tracks=tmp_path / "tracks.parquet")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"tracks": Path("tracks.csv")}, "--tracks needs the columns"),
        ({"keep_track": ("album", "Album")}, "names 'Album' twice"),
        ({"keep_track": ("Score",)}, "--keep-track Score is the name of a column that has another meaning"),
        ({"keep_track": tuple(map(str, range(33)))}, "name at most 30"),
    ],
)
def test_names_that_no_dataset_can_have(options, said):
    with pytest.raises(ValueError, match=said):
        PrepareConfig(input=(Path("log"),), output=Path("data"), **options)


def test_names_pass_from_one_vocabulary_to_the_next(tmp_path):
    """The newer one's word counts; what it does not say, and the tracks that it lacks, keep the older one's."""
    parts = {}
    for name, tracks, options in (("old", "abcx", {"title": "name"}), ("new", "abcd", NAMES)):
        (tmp_path / name).mkdir()
        rows = [
            {"track": one, "name": None if (name, one) == ("new", "b") else f"{name} {one}", "who": "W"}
            for one in tracks
        ]
        data = prepared(tmp_path / name, [*rows, rows[0], rows[1]], **options)
        parts[name] = Vocabulary.of(SessionStore(str(data)))
    for keep in (True, False):
        match(parts["old"], parts["new"], keep, tmp_path / "vocabulary.parquet", tmp_path / "matches.parquet")
        expected = {"a": ("new a", "W"), "b": ("old b", "W"), "c": ("new c", "W"), "d": ("new d", "W")}
        assert named(tmp_path, "title", "artist") == expected | ({"x": ("old x", None)} if keep else {})
        match(parts["new"], parts["old"], keep, tmp_path / "vocabulary.parquet", tmp_path / "matches.parquet")
        expected = {"a": ("old a", "W"), "b": ("old b", "W"), "c": ("old c", "W"), "x": ("old x", None)}
        assert named(tmp_path, "title", "artist") == expected | ({"d": ("new d", "W")} if keep else {})


def test_blocks_of_a_vocabulary_have_its_names(tmp_path):
    data = prepared(tmp_path, [{"track": one, "name": one.upper(), "who": "W"} for one in "abcdef"], **NAMES)
    vocabulary = Vocabulary.of(SessionStore(str(data)))
    assert vocabulary.names() == ["title", "artist"]
    ((first, block),) = vocabulary.tracks(2, 5, ["title"])
    assert (
        first == 2
        and block.to_pylist()
        == pq.read_table(data / "vocabulary.parquet", columns=["track_id", "title"]).slice(2, 3).to_pylist()
    )


def test_columns_of_any_name(tmp_path):
    """Those of the queries too."""
    columns = ("code", "id", "value", "source", "count_", 'the "B" side')
    parts = []
    for folder in (tmp_path / "old", tmp_path / "new"):
        folder.mkdir()
        data = prepared(
            folder, [{"track": one, **dict.fromkeys(columns, one * 2)} for one in "abc"], keep_track=columns
        )
        assert named(data, *columns) == {one: (one * 2,) * len(columns) for one in "abc"}
        parts.append(Vocabulary.of(SessionStore(str(data))))
    match(*parts, True, tmp_path / "vocabulary.parquet", tmp_path / "matches.parquet")
    assert named(tmp_path, *columns) == {one: (one * 2,) * len(columns) for one in "abc"}
