"""A file of sessions gives what its sessions give one by one; what stands in it is checked, and the output is whole."""

import re
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend import bulk
from skipwise.retrieval.recommend.bulk import SessionFile, recommend_file
from skipwise.retrieval.recommend.config import RecommendConfig, RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.recommend.track_recommender import TrackRecommender
from skipwise.retrieval.search.exact import ExactSearch
from tests.components.conftest import refused, run  # noqa: F401  a fixture
from tests.conftest import random_sessions, write_dataset
from tests.support.exports import write_made

TRACKS, DIM = 41, 8
IDS = [f"t_{row:02}" for row in range(TRACKS)]


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    rows_RD = np.random.default_rng(3).standard_normal((TRACKS, DIM))
    return write_made(tmp_path_factory.mktemp("made") / "out", IDS, rows_RD, skip_up_to=1)


@pytest.fixture(scope="module")
def opened(export: Path) -> OpenExport:
    return OpenExport.open(export)


def write_sessions(file: Path, group: int = 4, **columns) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=group)
    return file


def texts(lists, kind=None) -> pa.Array:
    return pa.array(lists, kind or pa.list_(pa.string()))


def test_ids_come_as_prepare_takes_them(tmp_path: Path):
    """Whole numbers, categories, UUIDs and lists of one length are the ids that they are as text."""
    numbers = [[3, 1], [2, 2], [40, 0]]
    uuids = [uuid.UUID(int=row) for row in range(TRACKS)]
    rows_RD = np.random.default_rng(3).standard_normal((TRACKS, DIM))
    for ids, values, kinds in (
        ([str(row) for row in range(TRACKS)], numbers, (pa.int64(), pa.uint8())),
        ([str(row) for row in range(TRACKS)], [[*map(str, row)] for row in numbers], (DICTIONARY,)),
        ([*map(str, uuids)], [[uuids[one].bytes for one in row] for row in numbers], (pa.binary(16),)),
    ):
        made = OpenExport.open(write_made(tmp_path / f"out-{ids[1]}-{kinds[0]}", ids, rows_RD))
        expected = None
        for kind in (None, *kinds):
            plain = [[ids[one] for one in row] for row in numbers]
            for lists in (pa.list_, lambda of: pa.list_(of, 2), pa.large_list):
                file = tmp_path / "sessions.parquet"
                pq.write_table(
                    pa.table({"tracks": pa.array(values if kind else plain, lists(kind or pa.string()))}), file
                )
                (found,) = SessionFile(file, made).sessions(9, "refuse")
                expected = found.rows_P.tolist() if expected is None else expected
                assert found.rows_P.tolist() == expected and found.lengths_S.tolist() == [2, 2, 2]


DICTIONARY = pa.dictionary(pa.int8(), pa.string())
KINDS = [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string_view())]
PLAYS = st.lists(st.tuples(st.integers(0, TRACKS - 1), st.integers(0, 3)), min_size=1, max_size=9)


@settings(max_examples=30, deadline=None)
@given(
    sessions=st.lists(PLAYS, max_size=12),
    kind=st.sampled_from(KINDS),
    skips=st.sampled_from(["none", "flags", "strengths"]),
    k=st.sampled_from([1, 7, TRACKS, 10_000]),
    batch=st.integers(1, 5),
)
def test_as_one_by_one(opened, tmp_path_factory, sessions, kind, skips, k, batch):
    """Skipped is strength 1 alone here, as the export's run had it."""
    folder = tmp_path_factory.mktemp("file")
    columns = {"tracks": texts([[IDS[row] for row, _ in session] for session in sessions], kind)}
    strengths = [[strength for _, strength in session] for session in sessions]
    if skips == "flags":
        columns["skips"] = pa.array([[one == 1 for one in of] for of in strengths], pa.list_(pa.bool_()))
    elif skips == "strengths":
        columns["skips"] = pa.array(strengths, pa.list_(pa.int8()))
    columns["session_id"] = pa.array([f"s{number}" if number % 3 else None for number in range(len(sessions))])
    source = write_sessions(folder / "in.parquet", **columns)
    output = folder / "out.parquet"
    config = RecommendConfig(export=opened.path, input=source, output=output, k=k, batch=batch)
    recommender = Recommender(opened, ExactSearch(opened.vectors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_CHUNK_SESSIONS", 5)
        recommend_file(config, TrackRecommender(opened, ExactSearch(opened.vectors)))
    found = pq.read_table(folder / "out.parquet")
    assert found.schema.types == [columns["session_id"].type, pa.list_(pa.string()), pa.list_(pa.float32())]
    assert found["session_id"].to_pylist() == columns["session_id"].to_pylist()
    for session, tracks, scores in zip(sessions, found["tracks"].to_pylist(), found["scores"].to_pylist(), strict=True):
        history = SessionHistory.of([[(row, skips != "none" and strength == 1) for row, strength in session]])
        rows_1K, scores_1K, _ = recommender.recommend(history, RecommendOptions(k=k))
        np.testing.assert_allclose(scores, scores_1K[0, : len(scores)], atol=1e-5)
        by_id = dict(zip(opened.tracks.ids(rows_1K[0]).to_pylist(), scores_1K[0], strict=True))
        np.testing.assert_allclose([by_id[track] for track in tracks], scores, atol=1e-5)
        assert len(tracks) == (rows_1K >= 0).sum()


def test_unknown_tracks_may_be_dropped(export: Path, tmp_path: Path, run):  # noqa: F811
    source = write_sessions(
        tmp_path / "in.parquet",
        tracks=texts([["no"], ["t_01", "no", "t_02"], ["t_01", "t_02"]]),
        skips=pa.array([[True], [False, True, True], [False, True]]),
    )
    words = ["recommend", "--export", str(export), "--input", str(source), "--output", str(tmp_path / "o" / "out")]
    refused(run(*words), f"{source}, row 0 (counted from 0): 'tracks' holds 'no'", "--unknown drop")
    assert not (tmp_path / "o").exists()
    ended = run(*words, "--unknown", "drop", "-k", "4")
    assert ended.code == 0 and "left out 2 unknown tracks; 1 sessions hold no other" in ended.said
    tracks = pq.read_table(tmp_path / "o" / "out")["tracks"].to_pylist()
    assert tracks[0] == [] and tracks[1] == tracks[2] and len(tracks[1]) == 4
    refused(run(*words, "--unknown", "drop"), "exists", "--overwrite")
    assert run(*words, "--unknown", "drop", "--overwrite").code == 0
    refused(run(*words[:-1], str(source), "--overwrite"), "is not what this command writes")


FLAGS = [[True], [False]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"skips": pa.array(FLAGS)}, "no column 'tracks'"),
        ({"tracks": pa.array(["a", "b"])}, "column 'tracks' is string: expected lists of track ids"),
        ({"tracks": pa.array([[1.0], [2.0]])}, "'tracks' is list.*: expected lists of track ids"),
        ({"tracks": texts([["t_01"], None])}, r"row 1 \(counted from 0\): 'tracks' is null"),
        ({"tracks": texts([["t_01"], ["t_01", None]])}, "row 1 .* 'tracks' in place 1 is null"),
        ({"tracks": texts([["t_01"], []])}, "row 1 .* 'tracks' is an empty session"),
        ({"tracks": texts([["t_01"], ["t_01"] * 10001])}, "row 1 .* has more than 10000 tracks"),
        ({"tracks": texts([["t_01"], ["t_99"]])}, "row 1 .* 'tracks' holds 't_99', which is not in the export"),
        (
            {"tracks": texts([["t_01"]] * 2), "skips": pa.array([[True], [True, True]])},
            "row 1 .* 'skips' has not as many",
        ),
        ({"tracks": texts([["t_01"]] * 2), "skips": pa.array([[1], [4]])}, r"row 1 .* 0 is a strength outside 0\.\.3"),
        ({"tracks": texts([["t_01"]] * 2), "skips": pa.array([[1], [-1]])}, r"row 1 .* strength outside 0\.\.3"),
        (
            {"tracks": texts([["t_01"] * 2] * 2), "skips": pa.array([[1, 1], [None, 9]])},
            r"row 1 .*: 'skips' in place 1 is a strength outside 0\.\.3",
        ),
        ({"tracks": texts([["t_01"]] * 2), "skips": pa.array([[1], None])}, "row 1 .* 'skips' is null"),
        ({"tracks": texts([["t_01"]] * 2), "skips": pa.array([0.5, 1])}, "column 'skips' is double: expected lists"),
        (
            {"tracks": texts([["t_01"]] * 2), "session_id": pa.array(FLAGS)},
            "'session_id' is list.*: expected one value",
        ),
    ],
)
def test_what_a_session_file_must_hold(opened: OpenExport, tmp_path: Path, columns: dict, words: str):
    source, output = write_sessions(tmp_path / "in.parquet", group=1, **columns), tmp_path / "out"
    with pytest.raises(UserError, match=words) as caught:
        recommend_file(RecommendConfig(export=opened.path, input=source, output=output), TrackRecommender(opened, None))
    assert str(source) in str(caught.value) and sorted(tmp_path.iterdir()) == [source]


def test_two_columns_of_one_name(opened: OpenExport, tmp_path: Path):
    lists = texts([["t_01"]])
    pq.write_table(pa.Table.from_arrays([lists, lists], names=["tracks", "tracks"]), tmp_path / "in")
    with pytest.raises(UserError, match="more than one column 'tracks'"):
        SessionFile(tmp_path / "in", opened)


@settings(max_examples=60, deadline=None)
@example(share=0.4203, bit=3, cut=False)  # Arrow then reads 26 of the 30 rows
@given(share=st.floats(0, 0.38), bit=st.integers(0, 7), cut=st.booleans())  # before the footer: see flipped_bits.py
def test_a_damaged_file(opened: OpenExport, tmp_path_factory, share: float, bit: int, cut: bool):
    """A sentence that names the file and leaves nothing, or an answer for every row."""
    folder = tmp_path_factory.mktemp("damaged")
    file = write_sessions(folder / "in.parquet", tracks=texts([[IDS[row], IDS[row + 1]] for row in range(30)]))
    content = bytearray(file.read_bytes())
    place = int(share * len(content))
    content[place] ^= 1 << bit
    file.write_bytes(content[:place] if cut else content)
    config = RecommendConfig(export=opened.path, input=file, output=folder / "out", k=3)
    try:
        recommend_file(config, TrackRecommender(opened, ExactSearch(opened.vectors)))
    except UserError as error:
        assert "in.parquet" in str(error) and str(error).isprintable() and not (folder / "out").exists()
    else:
        assert pq.read_metadata(folder / "out").num_rows == pq.read_metadata(file).num_rows
    assert not list(folder.glob(".*"))


def test_files_that_are_none(export: Path, tmp_path: Path, run):  # noqa: F811
    for path in (tmp_path / "no", tmp_path, Path("/dev/null")):
        words = ["--input", str(path), "--output", str(tmp_path / "out")]
        refused(run("recommend", "--export", str(export), *words), f"{path} cannot be read")


def test_the_manuals_snippet_turns_a_dataset_into_sessions(export: Path, tmp_path: Path, monkeypatch, run):  # noqa: F811
    manual = (Path(__file__).parents[3] / "docs" / "recommend.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", manual, flags=re.DOTALL)
    sessions = random_sessions(20, TRACKS)
    write_dataset(tmp_path / "data" / "sample", sessions, TRACKS)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    found = pq.read_table("sessions.parquet")
    assert found["tracks"].to_pylist() == [[f"t_{row:05}" for row in rows] for rows, _ in sessions]
    assert found["skips"].to_pylist() == [skips for _, skips in sessions]
    ended = run(
        "recommend", "--export", str(export), "--input", "sessions.parquet", "--output", "r", "--unknown", "drop"
    )
    assert ended.code == 0 and pq.read_metadata("r").num_rows == 20
