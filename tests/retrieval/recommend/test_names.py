"""What tracks are called, beside what is recommended: in a terminal, in files, in Python."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import skipwise
from skipwise.common.errors import UserError
from skipwise.components.recommend import recommend
from skipwise.components.similar import similar
from skipwise.retrieval.find_tracks import named_tracks
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendConfig, SimilarConfig
from skipwise.retrieval.recommend.session_text import print_ranked
from tests.components.conftest import Result, refused, run  # noqa: F401  a fixture
from tests.support.exports import change, write_made

TRACKS, DIM = 23, 8
IDS = [f"t_{row:02}" for row in range(TRACKS)]
TITLES = [f"Song {row}" if row % 3 else None for row in range(TRACKS)]
ARTISTS = [f"Artist {row % 4}" if row % 5 else None for row in range(TRACKS)]
ALBUMS = [None] * (TRACKS - 1) + ["Last"]
NAMES = {"title": TITLES, "artist": ARTISTS, "album": ALBUMS}


@pytest.fixture(scope="module")
def rows_RD() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((TRACKS, DIM))


@pytest.fixture(scope="module")
def export(rows_RD, tmp_path_factory) -> Path:
    return write_made(tmp_path_factory.mktemp("named") / "out", IDS, rows_RD, parts=3, names=NAMES)


@pytest.fixture(scope="module")
def nameless(rows_RD, tmp_path_factory) -> Path:
    return write_made(tmp_path_factory.mktemp("nameless") / "out", IDS, rows_RD, parts=3)


def names_of(track: str) -> dict[str, str]:
    return {name: values[IDS.index(track)] for name, values in NAMES.items() if values[IDS.index(track)]}


def test_an_export_has_the_names_of_its_rows(export):
    opened = OpenExport.open(export)
    assert {name: values.to_pylist() for name, values in opened.tracks.names.items()} == NAMES
    rows = np.array([22, 0, 7])
    assert opened.tracks.named_rows(rows) == [names_of(IDS[row]) for row in rows]
    assert opened.tracks.named_rows([]) == [] and named_tracks(opened, []) == []
    assert named_tracks(opened, ["t_07", "t_22"]) == [{"track": one} | names_of(one) for one in ("t_07", "t_22")]


def test_python(export, nameless):
    recommender, other = skipwise.load(export), skipwise.load(nameless)
    ranked = recommender.recommend(["t_01", "t_02"], k=9)
    assert ranked == other.recommend(["t_01", "t_02"], k=9), "names change nothing else"
    tracks = [track for track, _ in ranked]
    assert recommender.names(tracks) == [names_of(track) for track in tracks]
    assert other.names(tracks) == [{} for _ in tracks]
    with pytest.raises(UserError, match="'nowhere' is not among the 23 tracks"):
        recommender.names(["t_01", "nowhere"])
    with pytest.raises(UserError, match="names goes with arrays and tables"):
        recommender.recommend(["t_01"], names=True)
    with pytest.raises(UserError, match=r"does not say what its tracks are called: leave names \(--names\) out"):
        other.recommend(pa.array(["t_01"]), names=True)


def test_a_file_gets_them_where_asked(export, nameless, tmp_path, run):  # noqa: F811
    sessions = pa.table({"session_id": [5, 6, 7], "tracks": [["t_01", "t_04"], ["nowhere"], ["t_22"]]})
    pq.write_table(sessions, tmp_path / "sessions.parquet")

    def recommended(export: Path, name: str, *options: str) -> Result:
        files = ["--input", str(tmp_path / "sessions.parquet"), "--output", str(tmp_path / name)]
        return run("recommend", "--export", str(export), *files, "--unknown", "drop", "-k", "7", *options)

    assert (recommended(export, "plain").code, recommended(export, "named", "--names").code) == (0, 0)
    plain, named = (pq.read_table(tmp_path / name) for name in ("plain", "named"))
    assert named.column_names == ["session_id", "tracks", "scores", "title", "artist", "album"]
    assert named.select(plain.column_names).equals(plain)
    for row in named.to_pylist():
        for column, values in NAMES.items():
            assert row[column] == [values[IDS.index(track)] for track in row["tracks"]]
    asked = skipwise.load(export).recommend(sessions, k=7, unknown="drop", names=True)
    assert asked.equals(named)
    refused(
        recommended(nameless, "no", "--names"), "prepare its log with --title and export the run again with --names"
    )


@pytest.mark.parametrize(
    "command",
    [
        lambda export: recommend(RecommendConfig(export=export, session="t_01,t_02")),
        lambda export: similar(SimilarConfig(export, "t_01")),
    ],
    ids=["recommend", "similar"],
)
def test_a_terminal_shows_title_and_artist(command, export, nameless, capsys):
    said = []
    for path in (export, nameless):
        command(path)
        said.append(capsys.readouterr().out.splitlines())
    assert said[0][0].split() == ["rank", "track", "score", "title", "artist"] and len(said[0]) == len(said[1]) == 11
    for line, without in zip(*said, strict=True):
        assert line.startswith(without)
    for line in said[0][1:]:
        names = names_of(line.split()[1])
        assert line.endswith(f"  {names.get('title', ''):7}  {names.get('artist', '')}".rstrip())


def test_what_a_terminal_must_not_get_is_escaped(capsys):
    hostile = {"title": "\x1b]0;owned\x07\u202e<b>", "artist": "x" * 80}
    print_ranked({"tracks": ["a", "b"], "scores": [1, -0.5]}, [hostile, {"title": "می\u200cروم 夜に"}])
    assert capsys.readouterr().out.splitlines() == [
        f" rank  track      score  {'title':25}  artist",
        r"    1  a         1.0000  \x1b]0;owned\x07\u202e<b>  " + "x" * 49 + "…",
        "    2  b        -0.5000  می\u200cروم 夜に",
    ]


@pytest.mark.parametrize("names", [["title", "title"], ["track_id"], ["embedding"], ["title", "scores"]])
def test_names_that_are_no_columns_are_refused(names, export, tmp_path):
    copy = tmp_path / "out"
    copy.mkdir()
    for file in export.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(export)).parent.mkdir(exist_ok=True)
            (copy / file.relative_to(export)).write_bytes(file.read_bytes())
    change(copy, names=names)
    with pytest.raises(UserError, match="has names that are not columns of their own"):
        OpenExport.open(copy)
    change(copy, names=["year"])
    with pytest.raises(UserError, match="cannot be opened"):
        OpenExport.open(copy)
