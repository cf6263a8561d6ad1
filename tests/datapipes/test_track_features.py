"""What is known of tracks: read from a table, normalized and coded by the training's tracks, and mapped again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import Sessions, SessionStore
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.datapipes.view import View
from tests.conftest import random_sessions, write_dataset
from tests.support.features import KNOWN, add_features, random_rows

PLAYS = "abcde abcab caba"
"""Of each session the last two are held out, so that training plays a, b and c."""
ROWS = [
    {"track_id": "a", "genre": "rock", "tags": ["x", "y", "x"], "year": 1990.0, "live": True, "audio": [1.0, 2.0]},
    {"track_id": "b", "genre": " rock ", "tags": [], "year": None, "live": False, "audio": None},
    {"track_id": "c", "genre": "jazz", "tags": ["y", None, ""], "year": 2010.0, "live": None, "audio": [3.0, np.nan]},
    {"track_id": "d", "genre": "folk", "tags": ["x", "z"], "year": 1970.0, "live": True, "audio": [5.0, 6.0]},
    {"track_id": "cold", "genre": "jazz", "tags": ["y"], "year": 1e9, "live": False, "audio": [7.0, 8.0]},
]


def log_of(folder: Path) -> Path:
    plays = [
        {"session": f"s{number}", "track": track, "skip": False}
        for number, tracks in enumerate(PLAYS.split())
        for track in tracks
    ]
    pq.write_table(pa.Table.from_pylist(plays), folder / "log.parquet")
    return folder / "log.parquet"


def prepared(folder: Path, table: Path, **options) -> Path:
    columns = {"session": "session", "track": "track", "order": "file", "skip": "skip"}
    prepare(
        PrepareConfig(
            input=(log_of(folder),), track_features=table, **{"output": folder / "data", **columns, **options}
        )
    )
    return options.get("output", folder / "data")


def from_rows(folder: Path, rows: list[dict] = ROWS, **options) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "tracks.parquet")
    return prepared(folder, folder / "tracks.parquet", **options)


def known(data: Path, *names: str) -> dict[str, dict[str, object]]:
    """By track and column: the texts of the codes, or the numbers."""
    manifest = Manifest.read(data)
    ids = pq.read_table(data / "vocabulary.parquet")["track_id"].to_pylist()
    found: dict[str, dict[str, object]] = {track: {} for track in ids}
    for place, entry in enumerate(manifest.features):
        if entry.name not in (names or [entry.name]):
            continue
        content = TrackFeatures.open(data, manifest.features, (entry.name,), len(ids)).of(np.arange(len(ids)))
        if entry.kind == "values":
            texts = pq.read_table(data / "features" / f"{place}-values.parquet")["value"].to_pylist()
            pieces = np.split(content.codes_CZ[0], content.counts_UC[:, 0].cumsum()[:-1])
            for track, codes in zip(ids, pieces, strict=True):
                found[track][entry.name] = {texts[code] for code in codes}
        else:
            for track, numbers in zip(ids, content.numbers_UF.tolist(), strict=True):
                found[track][entry.name] = numbers
    return found


def test_features_by_hand(tmp_path: Path, capsys):
    """A cold track gets a row; statistics and values are those of a, b and c; unknown is nothing, or zero."""
    data = from_rows(tmp_path)
    found = known(data)
    assert found.keys() == {"a", "b", "c", "d", "e", "cold"}
    assert {track: of["genre"] for track, of in found.items()} == {
        "a": {"rock"},
        "b": {"rock"},
        "c": {"jazz"},
        "d": set(),  # training has no folk
        "e": set(),  # the table says nothing of it
        "cold": {"jazz"},
    }
    assert [found[track]["tags"] for track in ("a", "b", "c", "d")] == [{"x", "y"}, set(), {"y"}, {"x"}]
    assert [found[track]["live"] for track in ("a", "b", "c", "cold")] == [{"true"}, {"false"}, set(), {"false"}]
    # The mean of 1990 and 2010 is 2000, their deviation 10; what lies far out is cut.
    assert [found[track]["year"] for track in ("a", "b", "c", "d", "e", "cold")] == [[-1], [0], [1], [-3], [0], [10]]
    assert [found[track]["audio"] for track in ("a", "b", "c", "cold")] == [[1, 2], [0, 0], [3, 0], [7, 8]]
    counts = pq.read_table(data / "vocabulary.parquet").to_pylist()
    assert {row["track_id"]: row["count"] for row in counts}["cold"] == 0
    entries = {entry.name: entry for entry in Manifest.read(data).features}
    assert [entries[name].tracks for name in ("genre", "tags", "year", "audio")] == [4, 4, 4, 4]
    assert (entries["genre"].width, entries["genre"].unknown, entries["tags"].unknown) == (2, 1, 1)
    assert (entries["year"].mean, entries["year"].deviation) == (2000, 10)
    said = capsys.readouterr().err
    assert "features of tracks: genre 4 by 2 values" in said
    assert "tracks.parquet: 4 of the log's 5 tracks, and 1 that it does not play" in said


def test_a_text_file_with_a_separator_and_numbers_that_are_categories(tmp_path: Path):
    table = tmp_path / "tracks.csv"
    table.write_text("track,genres,key,tempo\na,rock|pop,1,120\nb,NULL,2,\nc,pop,1,100\n")
    data = prepared(tmp_path, table, feature_separator="|", feature_values=("key",))
    found = known(data)
    assert [found[track]["genres"] for track in "abc"] == [{"rock", "pop"}, set(), {"pop"}]
    assert [found[track]["key"] for track in "abc"] == [{"1"}, {"2"}, {"1"}]
    assert [found[track]["tempo"] for track in "abc"] == [[1], [0], [-1]]
    again = known(prepared(tmp_path, table, features=("tempo",), output=tmp_path / "again"))
    assert again["a"] == {"tempo": [1]}


def test_columns_of_the_log_itself(tmp_path: Path):
    plays = [
        {"session": f"s{number}", "track": track, "skip": False, "who": {"a": "X", "b": "X", "c": "Y"}.get(track)}
        for number, tracks in enumerate(PLAYS.split())
        for track in tracks
    ]
    pq.write_table(pa.Table.from_pylist(plays), tmp_path / "log.parquet")
    columns = {"session": "session", "track": "track", "order": "file", "skip": "skip", "artist": "who"}
    prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data", features=("artist",), **columns))
    assert {track: of["artist"] for track, of in known(tmp_path / "data").items()} == {
        "a": {"X"},
        "b": {"X"},
        "c": {"Y"},
        "d": set(),
        "e": set(),
    }


def test_sessions_are_those_without_features(tmp_path: Path):
    """The same sessions in the same order, each track under its id."""
    with_features = from_rows(tmp_path)
    sessions = []
    for data in (with_features, prepared(tmp_path, None, output=tmp_path / "plain")):
        ids = pq.read_table(data / "vocabulary.parquet")["track_id"].to_pylist()
        tracks = pq.read_table(data / "sessions")["tracks"].to_pylist()
        sessions.append([[ids[row] for row in rows] for rows in tracks])
        if data == with_features:
            continue
        assert not Manifest.read(data).features and not (data / "features").exists()
    assert sessions[0] == sessions[1]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([*ROWS, ROWS[0]], {}, "has 2 rows of track 'a': give each track one row"),
        ([{"id": "a", "year": 1}], {}, r"has no column 'track' \(its columns are id, year\): give its column of track"),
        ([{"track_id": "z", "year": 1}], {}, "has none of the log's tracks: the log has ids such as 'a', the table"),
        (ROWS, {"features": ("yaer",)}, "has no column 'yaer' .*: correct --features"),
        (ROWS, {"feature_values": ("yaer",)}, "--feature-values yaer: no such column is taken"),
        ([{"track_id": "a", "at": {"x": 1}}], {}, "column 'at' holds STRUCT.*, expected numbers, texts"),
        (
            [{"track_id": "a", "v": [1.0]}, {"track_id": "b", "v": [1.0, 2.0]}],
            {},
            "vectors of 'v' have 1 to 2 numbers, expected as many each",
        ),
        (
            [{"track_id": None, "g": "x"}, {"track_id": " ", "g": "x"}],
            {},
            "has 2 rows, none of them with a track id in",
        ),
        ([{"track_id": "a", "x": 1e308}, {"track_id": "b", "x": -1e308}], {}, "numbers of 'x' are too large for their"),
    ],
)
def test_tables_that_are_refused(rows: list[dict], options: dict, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        from_rows(tmp_path, rows, **options)
    assert not (tmp_path / "data").exists()


def test_rows_without_an_id_and_texts_that_are_hardly_categories_are_told(tmp_path: Path, capsys):
    from_rows(tmp_path, [*ROWS, {"track_id": None, "genre": "pop"}, {"track_id": "", "genre": "pop"}])
    assert "tracks.parquet: 2 of 7 rows have no track id in 'track_id' and are left out" in capsys.readouterr().err
    numbers = [f"{track},{place}.5,[x y],rock" for place, track in enumerate("abcdefghi")]
    (tmp_path / "tracks.csv").write_text("\n".join(["track_id,year,tags,genre", *numbers, "j,about 1990,[z],1984", ""]))
    prepared(tmp_path, tmp_path / "tracks.csv", output=tmp_path / "texts")
    told = capsys.readouterr().err
    assert "'year' has 9 numbers and 1 other texts, such as 'about 1990', and is read as categories" in told
    assert "'tags' looks like lists written as text" in told and "'genre' has" not in told
    options = {"feature_values": ("year", "tags"), "output": tmp_path / "confirmed"}
    prepared(tmp_path, tmp_path / "tracks.csv", **options)
    assert "is read as" not in capsys.readouterr().err


def test_vectors_out_of_scale_and_thousands_of_tags_are_told(tmp_path: Path, capsys):
    rows = [{"track_id": track, "v": [1e4, 1.0], "tags": [f"{track}{tag}" for tag in range(1200)]} for track in "abe"]
    from_rows(tmp_path, rows)
    told = capsys.readouterr().err
    assert "vectors of 'v' have numbers up to 1e+04, which are read as they are: scale them" in told
    assert "2 tracks have more than 1,000 values of 'tags', one of them 1,200" in told, "e is of no training play"


def test_uuids_in_bytes_are_the_ids_that_a_log_has(tmp_path: Path):
    identity = [bytes([number] * 16) for number in range(3)]
    for name, columns in (("log", {"session": ["s"] * 3}), ("tracks", {"year": [1, 2, 3]})):
        pq.write_table(pa.table({"track": pa.array(identity, pa.binary(16)), **columns}), tmp_path / f"{name}.parquet")
    options = {"session": "session", "track": "track", "order": "file", "output": tmp_path / "data"}
    prepare(PrepareConfig(input=(tmp_path / "log.parquet",), track_features=tmp_path / "tracks.parquet", **options))
    assert Manifest.read(tmp_path / "data").features[0].tracks == 3
    assert (
        "01010101-0101-0101-0101-010101010101" in pq.read_table(tmp_path / "data" / "vocabulary.parquet")[0].to_pylist()
    )


def test_numbers_of_a_vector_beyond_float32_are_not_finite(tmp_path: Path):
    data = from_rows(tmp_path, [{"track_id": "a", "v": [1e39, 2.0]}, {"track_id": "b", "v": [-1e300, np.inf]}])
    found = np.load(data / "features" / "0-numbers.npy")
    assert found.max() == 2.0 and np.count_nonzero(found) == 1
    assert Manifest.read(data).features[0].tracks == 1


def test_whole_numbers_of_more_than_53_bits_are_rounded(tmp_path: Path):
    large = 2**60 + 1
    rows = [{"track_id": "a", "x": large, "v": [large]}, {"track_id": "b", "x": -large, "v": [0]}]
    data = from_rows(tmp_path, rows)
    assert sorted({*np.load(data / "features" / "0-numbers.npy").ravel().tolist()}) == [-1.0, 0.0, 1.0]
    assert np.load(data / "features" / "1-numbers.npy").max() == 2.0**60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_separator": "|"}, "--feature-values and --feature-separator apply to --track-features"),
        ({"features": ("genre",)}, "--features genre is no column that the dataset names"),
        (
            {"features": ("artist",), "artist": "artist", "feature_values": ("artist", "tempo")},
            "--feature-values tempo is not among --features",
        ),
        ({"features": ("a", "a"), "track_features": Path("x.csv")}, "--features names 'a' twice"),
        ({"feature_separator": "", "track_features": Path("x.csv")}, "--feature-separator must be at least one"),
    ],
)
def test_options_that_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        PrepareConfig(input=(Path("log.csv"),), output=Path("data"), **options)


def test_files_that_are_refused(tmp_path: Path):
    for name, message in (("missing.csv", "is no file"), ("tracks.xlsx", "must end in .parquet, .csv")):
        if name.endswith("xlsx"):
            (tmp_path / name).write_text("x")
        with pytest.raises(UserError, match=message):
            prepared(tmp_path, tmp_path / name)
    (tmp_path / "tracks.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match="cannot be read as a table of tracks"):
        prepared(tmp_path, tmp_path / "tracks.parquet")


def test_what_prepare_did_not_write_is_refused(tmp_path: Path):
    data = from_rows(tmp_path)
    manifest = Manifest.read(data)
    with pytest.raises(UserError, match=r"--data.features mood: .* has genre, tags, year, live, audio; name these"):
        SessionStore(str(data)).featuring(("mood",))
    assert SessionStore(str(data)).featuring(("year", "genre")).features.num_values == 2
    place = [entry.name for entry in manifest.features].index("year")
    file = data / "features" / f"{place}-numbers.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="numbers.npy is not what prepare wrote, by its checksum: prepare the dataset"):
        SessionStore(str(data)).featuring(("year",))
    file.unlink()
    with pytest.raises(UserError, match="numbers.npy cannot be read"):
        SessionStore(str(data)).featuring(("year",))


@pytest.fixture(scope="module")
def featured(tmp_path_factory) -> SessionStore:
    data = write_dataset(tmp_path_factory.mktemp("featured") / "data", random_sessions(60, 40), 50)
    return SessionStore(str(add_features(data, random_rows(50)))).featuring(KNOWN)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 60), unique=True, max_size=20))
def test_any_rows_are_those_of_all(featured: SessionStore, rows: list[int]):
    every = featured.features.of(np.arange(61))
    some = featured.features.of(np.array(sorted(rows), dtype=np.int64))
    pieces = [
        np.split(codes_Z, every.counts_UC[:, column].cumsum()[:-1]) for column, codes_Z in enumerate(every.codes_CZ)
    ]
    assert np.array_equal(some.numbers_UF, every.numbers_UF[sorted(rows)])
    assert np.array_equal(some.counts_UC, every.counts_UC[sorted(rows)])
    for column, codes_Z in enumerate(some.codes_CZ):
        assert codes_Z.tolist() == [code for row in sorted(rows) for code in pieces[column][row].tolist()]
    assert not every.counts_UC[50:].any() and not every.numbers_UF[50:].any(), "of rows behind the data's tracks"


def test_negatives_are_tracks_that_training_plays(featured: SessionStore):
    """And ids are dropped by the step and the track, whichever sessions a rank has."""
    drawable = np.array([3, 7, 8, 20, 41])
    builder = TrainBuilder(
        0, View(6), 6, 50, 4, "shared", None, features=featured.features, drawable=drawable, id_dropout=0.5
    )
    owns: list[dict[int, float]] = []
    for first in (0, 1):
        tracks = np.array([[first, 3, 7, 20, 9, 2]])
        sessions = Sessions(tracks, np.zeros((1, 6), np.int8), np.array([6]), np.array([first]))
        batch = builder.build(sessions, 1, 5)
        rows = batch.tracks["track"].values()
        drawn = rows[batch.negatives_P].tolist()
        assert len(set(drawn)) == 4 and set(drawn) <= {*drawable.tolist()} and batch.drawn_from == 5
        owns.append(dict(zip(rows.tolist(), batch.own_U.tolist(), strict=False)))
    common = owns[0].keys() & owns[1].keys()
    assert {row: owns[0][row] for row in common} == {row: owns[1][row] for row in common}
    assert {*owns[0].values()} == {0.0, 1.0}


def test_plays_that_are_left_out(make_dataset):
    sessions = [([0, 1, 2, 3], [0, 1, 2, 3]), ([1, 1, 2], [0, 0, 1]), ([1, 2, 1], [1, 2, 3])]
    store = SessionStore(str(make_dataset(sessions, 5, 2)))
    left_out = np.array([False, True, False, True, False])
    window = store.without(left_out, 1).read(np.arange(len(store.group_sizes)))
    pieces = [piece.tolist() for piece in np.split(window.tracks, window.offsets[1:-1])]
    assert pieces == [[0, 2, 3], [2], [2, 1]]
    assert window.skips.tolist() == [0, 2, 3, 1, 2, 3]
