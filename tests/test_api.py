"""The Python API: what goes in, what is returned in kind, and what is refused in one sentence."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import skipwise
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize
from tests.support.exports import LONGEST, Mean, stands_for_the_encoder, write_made

TRACKS, DIM = 41, 8
IDS = [f"t_{row:02}" for row in range(TRACKS)]
ROWS = np.random.default_rng(3).standard_normal((TRACKS, DIM)).astype(np.float32)
SESSIONS = [["t_01", "t_02", "t_03"], ["t_07", "t_08"], ["t_01"]]
SKIPPED = [[False, True, False], [False, False], [True]]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("api") / "out"
    with stands_for_the_encoder(Mean()):
        return skipwise.load(write_made(folder, IDS, ROWS, skip_up_to=2, skipped_tracks="filter"))


def by_hand(tracks: list[str], skipped: list[bool], k: int) -> list[tuple[str, float]]:
    """The encoder's mean of the kept tracks, scored against all others."""
    read = [IDS.index(track) for track, skip in zip(tracks, skipped, strict=True) if not skip][-LONGEST:]
    scores = ROWS @ (ROWS[read].mean(axis=0) if read else np.zeros(DIM, np.float32))
    order = [row for row in np.argsort(-scores, kind="stable") if IDS[row] not in tracks][:k]
    return [(IDS[row], float(scores[row])) for row in order]


EXPECTED = [by_hand(tracks, skipped, 5) for tracks, skipped in zip(SESSIONS, SKIPPED, strict=True)]


def assert_same(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    assert [track for track, _ in found] == [track for track, _ in wanted]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], atol=1e-5)


def assert_all_same(tracks: list, scores: list) -> None:
    for names, values, wanted in zip(tracks, scores, EXPECTED, strict=True):
        assert_same(list(zip(names, values, strict=True)), wanted)


def test_one_list(recommender):
    assert_same(recommender.recommend(SESSIONS[0], SKIPPED[0], k=5), EXPECTED[0])
    assert_same(recommender.recommend(tuple(SESSIONS[0]), skipped=[0, 2, 3], k=5), EXPECTED[0])


def test_many_lists(recommender):
    for found, wanted in zip(recommender.recommend(SESSIONS, SKIPPED, k=5), EXPECTED, strict=True):
        assert_same(found, wanted)


def test_arrow(recommender):
    one = recommender.recommend(pa.array(SESSIONS[0]), pa.array(SKIPPED[0]), k=5)
    assert_same(list(zip(*(one[name][0].as_py() for name in ("tracks", "scores")), strict=True)), EXPECTED[0])
    many = recommender.recommend(pa.chunked_array([SESSIONS[:1], SESSIONS[1:]]), SKIPPED, k=5)
    assert isinstance(many, pa.Table) and many.column_names == ["tracks", "scores"]
    assert_all_same(many["tracks"].to_pylist(), many["scores"].to_pylist())
    table = pa.table({"session_id": [7, 8, 9], "tracks": SESSIONS, "skips": SKIPPED, "other": [0, 0, 0]})
    for given in (table, table.combine_chunks().to_batches()[0]):
        found = recommender.recommend(given, k=5)
        assert found["session_id"].to_pylist() == [7, 8, 9]
        assert_all_same(found["tracks"].to_pylist(), found["scores"].to_pylist())


def test_pandas(recommender):
    frame = pd.DataFrame({"tracks": SESSIONS, "skips": SKIPPED, "session_id": list("abc")}, index=[5, 3, 1])
    found = recommender.recommend(frame, k=5)
    assert isinstance(found, pd.DataFrame) and list(found.index) == [5, 3, 1]
    assert list(found.columns) == ["session_id", "tracks", "scores"] and list(found["session_id"]) == list("abc")
    assert_all_same([list(one) for one in found["tracks"]], [list(one) for one in found["scores"]])
    arrays = frame.assign(tracks=[np.array(one) for one in SESSIONS])
    assert [list(one) for one in recommender.recommend(arrays)["tracks"]]


def test_polars(recommender):
    frame = pl.DataFrame({"tracks": SESSIONS, "skips": SKIPPED, "session_id": list("abc")})
    found = recommender.recommend(frame, k=5)
    assert isinstance(found, pl.DataFrame) and found.columns == ["session_id", "tracks", "scores"]
    assert_all_same(found["tracks"].to_list(), found["scores"].to_list())
    assert recommender.recommend(frame[:0]).shape == (0, 3)


def test_a_frame_without_skips(recommender):
    found = recommender.recommend(pl.DataFrame({"tracks": SESSIONS}), k=3)
    wanted = by_hand(SESSIONS[0], [False] * 3, 3)
    assert found["tracks"].to_list()[0] == [track for track, _ in wanted]


def test_many_sessions_in_chunks(recommender, monkeypatch):
    monkeypatch.setattr("skipwise.retrieval.recommend.track_recommender._CHUNK", 2)
    for found, wanted in zip(recommender.recommend(SESSIONS, SKIPPED, k=5), EXPECTED, strict=True):
        assert_same(found, wanted)
    whole = recommender.encode(SESSIONS, SKIPPED)
    np.testing.assert_allclose(whole[1], ROWS[[7, 8]].mean(axis=0), atol=1e-6)


def test_encode(recommender):
    queries_SD = recommender.encode(SESSIONS, SKIPPED)
    assert queries_SD.shape == (3, DIM) and queries_SD.dtype == np.float32
    np.testing.assert_allclose(queries_SD[0], ROWS[[1, 3]].mean(axis=0), atol=1e-6)
    assert np.array_equal(queries_SD[2], np.zeros(DIM)), "nothing of it is read"
    np.testing.assert_allclose(recommender.encode(SESSIONS[0], SKIPPED[0]), queries_SD[0], atol=1e-6)
    frame = pl.DataFrame({"tracks": SESSIONS, "skips": SKIPPED})
    for given in (frame, frame.to_arrow(), frame.to_pandas()):
        np.testing.assert_allclose(recommender.encode(given), queries_SD, atol=1e-6)


def test_similar(recommender):
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    scores = unit @ unit[4]
    nearest = [row for row in np.argsort(-scores) if row != 4][:3]
    assert_same(recommender.similar("t_04", k=3), [(IDS[row], scores[row]) for row in nearest])
    many = recommender.similar(["t_04", "t_05"], k=3, by="inner-product")
    assert len(many) == 2 and many[1][0][0] == IDS[max(set(range(TRACKS)) - {5}, key=lambda row: (ROWS @ ROWS[5])[row])]


def test_options(recommender):
    session = ["t_01", "no", "t_02"]
    assert recommender.recommend(session, unknown="drop") == recommender.recommend(["t_01", "t_02"])
    assert recommender.recommend([["no"], ["t_01"]], unknown="drop")[0] == []
    left_out = {"session": {"t_01", "t_02"}, "kept": {"t_01"}, "skipped": {"t_02"}, "none": set()}
    for exclude, tracks in left_out.items():
        found = recommender.recommend(["t_01", "t_02"], [False, True], k=TRACKS, exclude=exclude)
        assert {track for track, _ in found} == set(IDS) - tracks
    assert len(recommender.recommend(["t_01"], k=10_000)) == len(recommender.similar("t_01", k=10_000)) == TRACKS - 1
    assert recommender.recommend(["t_01"], k=TRACKS) == recommender.recommend(["t_01"], k=TRACKS, exclude="session")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([], "an empty list"),
        ([[]], "row 0 (counted from 0): 'tracks' is an empty session"),
        ([["t_01"], []], "row 1"),
        ("t_01", "of type str"),
        ({"tracks": [["t_01"]]}, "of type dict"),
        ([1, 2], "cannot be read"),
        (["t_01", ["t_02"]], "both track ids and lists"),
        (["t_01", "t_99"], "'t_99', which is not in the export"),
        (["t_0"], "perhaps 't_0"),
        (pd.DataFrame({"songs": SESSIONS}), "no column 'tracks'"),
        (pd.DataFrame({"tracks": IDS}), "expected lists of track ids"),
        (pd.DataFrame({"tracks": [["t_01", 2]]}), "cannot be read"),
        (pl.DataFrame({"tracks": [[1, 2]]}), "'1', which is not in the export"),
        (pl.DataFrame({"tracks": [[1.5, 2.5]]}), "column 'tracks' is"),
        (pl.DataFrame({"tracks": [["t_01", None]]}), "null"),
        (pl.DataFrame({"tracks": [["t_01"]], "skips": [[True, False]]}), "'skips' has not as many"),
        (pa.table({"tracks": [["t_01"]], "skips": [[4]]}), "strength outside 0..3"),
        (pl.DataFrame({"tracks": SESSIONS}).lazy(), "LazyFrame"),
        (None, "NoneType"),
    ],
)
@pytest.mark.parametrize("method", ["recommend", "encode"])
def test_refused_sessions(recommender, given: Any, named: str, method: str):
    with pytest.raises(skipwise.UserError) as caught:
        getattr(recommender, method)(given)
    assert named in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"k": 0}, "k 0 must lie in"),
        ({"k": "3"}, "k '3' must lie in"),
        ({"dial": "1"}, "dial '1' must be auto or lie in"),
        ({"exclude": "all"}, "exclude must be one of session, kept, skipped, none"),
        ({"exclude": "heard"}, "exclude must be one of session, kept, skipped, none"),
        ({"unknown": "keep"}, "unknown must be one of refuse, drop"),
        ({"dial": -1}, "dial -1 must be auto or lie in"),
        ({"dial": 1.0}, "dial 1.0 needs a keep head"),
        ({"skipped": [True]}, "'skips' has not as many"),
        ({"skipped": 3}, "column 'skips' is int64"),
    ],
)
def test_refused_options(recommender, options: dict[str, Any], named: str):
    with pytest.raises(skipwise.UserError) as caught:
        recommender.recommend(["t_01", "t_02"], **options)
    assert named in str(caught.value)


def test_refused_elsewhere(recommender, tmp_path: Path):
    with pytest.raises(skipwise.UserError, match="perhaps 't_0"):
        recommender.similar("t_0")
    for call in (lambda: recommender.similar(8), lambda: recommender.names([8]), lambda: recommender.names("t_01")):
        with pytest.raises(skipwise.UserError, match="is no track id and no list of them: expected text"):
            call()
    with pytest.raises(skipwise.UserError, match="by must be"):
        recommender.similar("t_01", by="distance")
    with pytest.raises(skipwise.UserError, match="skipped goes with lists"):
        recommender.recommend(pl.DataFrame({"tracks": SESSIONS}), SKIPPED)
    with pytest.raises(skipwise.UserError, match="manifest.json"):
        skipwise.load(tmp_path)
    for call in (
        lambda: skipwise.load(tmp_path, search="exakt"),
        lambda: skipwise.evaluate("runs/mine", "ful"),
        lambda: skipwise.evaluate("runs/mine", ["full", "ful"]),
        lambda: skipwise.evaluate("runs/mine", positions="frist"),
        lambda: skipwise.evaluate("runs/mine", "full", export="out", search="exakt"),
        lambda: skipwise.prepare(
            "log.csv", tmp_path / "data", on_error="skp", tracks="t.csv", title="x", vocabulary="d"
        ),
    ):
        with pytest.raises(skipwise.UserError, match="must be one of .*, not '(exakt|ful|frist|skp)'"):
            call()
    with pytest.raises(skipwise.UserError, match="there is no option 'trak': expected one of input, .*track"):
        skipwise.prepare("log.csv", tmp_path / "data", trak="track")
    with pytest.raises(skipwise.UserError, match="there is no recipe"):
        skipwise.recipe("nothing")
    with pytest.raises(skipwise.UserError, match="config: there is no field 'trian'"):
        skipwise.train({"trian": {}})
    with pytest.raises(skipwise.UserError, match="--min-length must be at least 3"):
        skipwise.prepare("log.csv", tmp_path / "data", min_length=1)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = skipwise.nothing


def test_the_import_is_light():
    code = """
import sys
import skipwise
heavy = {"torch", "numpy", "pyarrow", "pandas", "polars"} & set(sys.modules)
assert not heavy, heavy
assert all(getattr(skipwise, name) for name in skipwise.__all__)
assert not {"pandas", "polars"} & set(sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.ranks
def test_from_a_log_to_recommendations(tmp_path: Path):
    log = tmp_path / "log.csv"
    synthesize(SynthesizeConfig(output=log, sessions=300, tracks=120))
    manifest = skipwise.prepare(log, tmp_path / "data")
    assert isinstance(manifest, skipwise.Manifest)
    changes = {
        "run_dir": str(tmp_path / "run"),
        "data": {"path": str(tmp_path / "data"), "negatives": 50, "batch_size": 64, "workers": 0},
        "table": {"dim": 16},
        "encoder": {"heads": 2, "hidden": 16},
        "train": {"epochs": 1, "refit": False},
        "evaluate": {"candidates": 50},
    }
    run = skipwise.train(changes, recipe="unidir-skip-track")
    assert isinstance(run, skipwise.RunDirectory) and run.finished
    measured = skipwise.evaluate(run, "full")
    assert set(measured) == {"full"} and measured["full"]["test"] == run.metrics()["full"]["test"]
    assert 0 <= measured["full"]["test"]["hr@10"] <= 1
    assert list(skipwise.evaluate(run)) == ["served", "full", "paper"]
    later = tmp_path / "later.csv"
    synthesize(SynthesizeConfig(output=later, sessions=100, tracks=120, seed=1))
    counts = skipwise.prepare(later, tmp_path / "later", vocabulary=run.path).counts
    other = skipwise.evaluate(run, ["full"], data=tmp_path / "later", positions="last")
    assert other["full"]["test"]["targets"] == counts["sessions"], "of each session the last track"
    assert run.metrics()["full"]["test"] == measured["full"]["test"], "other data are not the run's own split"
    output = skipwise.export(run, tmp_path / "out", format="npy")
    recommender = skipwise.load(output)
    (first, *_) = pl.read_csv(log)["track_id_clean"].unique(maintain_order=True).to_list()
    assert len(recommender.recommend([first], k=5)) == 5


def test_the_manuals_examples(tmp_path: Path, monkeypatch, capsys):
    manual = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    first, *blocks = re.findall(r"```python\n(.*?)```", manual, flags=re.DOTALL)
    assert all(f"skipwise.{name}(" in first for name in ("prepare", "train", "evaluate", "export")), "tested above"
    write_made(tmp_path / "exports" / "mine", IDS, ROWS, names={"artist": ["X", None] * len(IDS)})
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert "'no such track', which is not in the export" in capsys.readouterr().out
