"""The dial and P(kept) of an export with a keep head that reads skips, against NumPy in float64."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.components.index import index
from skipwise.datapipes.signals import UNKNOWN
from skipwise.models.query_encoder import QueryEncoder
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.recommend.track_recommender import TrackRecommender
from skipwise.retrieval.search.config import IndexConfig
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.search.stored import open_search
from tests.components.conftest import refused, run  # noqa: F401  a fixture
from tests.support.exports import LONGEST, change, small_encoder, write_made

TRACKS, DIM, KEEP = 37, 8, 4
IDS = [f"t_{row:02}" for row in range(TRACKS)]
ROWS = np.random.default_rng(5).standard_normal((TRACKS, DIM + KEEP)).astype(np.float32)
SIGNALS = np.random.default_rng(6).standard_normal((5, DIM)).astype(np.float32)
CURVE = [
    {
        "dial": dial,
        "hr_at_10": 0.5,
        "kept_hr_at_10": 0.5,
        "skipped_hr_at_10": 0.5,
        "pairs_in_order": 0.4,
        "skip_rate": 0.5,
    }
    for dial in (0.0, 0.75)
]
HEAD = {"dim": KEEP, "dial": 0.75, "curve": CURVE, "targets": 100, "split": "validation"}
OPTIONS = {0.0: 0.0, 2.0: 2.0, "auto": 0.75}


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "export"
    return write_made(folder, IDS, ROWS, parts=2, keep=HEAD, signals_MD=SIGNALS)


@pytest.fixture(scope="module")
def opened(export: Path) -> OpenExport:
    return OpenExport.open(export)


def by_hand(session: list[tuple[int, int]], dial: float) -> tuple[np.ndarray, np.ndarray]:
    """The score and P(kept) of every track, from one output of the encoder."""
    encoder = QueryEncoder(small_encoder(DIM, keep_dim=KEEP, reads_signals=True), torch.from_numpy(SIGNALS))
    read = session[-LONGEST:]
    items, told = ROWS[[row for row, _ in read], :DIM], torch.tensor([[[1 + strength] for _, strength in read]])
    output = encoder(torch.from_numpy(items)[None], torch.tensor([len(read)]), told)[0].numpy().astype(np.float64)
    q, r, b = output[:DIM], output[DIM:-1], output[-1]
    logits = ROWS[:, DIM:] @ r
    return ROWS[:, :DIM] @ q + dial * logits, 1 / (1 + np.exp(-logits - b))


@settings(max_examples=50, deadline=None)
@given(
    sessions=st.lists(
        st.lists(st.tuples(st.integers(0, TRACKS - 1), st.sampled_from([0, 1, 2, 3, UNKNOWN])), min_size=1, max_size=9),
        min_size=1,
        max_size=4,
    ),
    dial=st.sampled_from(list(OPTIONS)),
)
def test_ranked_as_by_hand(opened: OpenExport, sessions: list, dial):
    found = Recommender(opened, ExactSearch(opened.vectors)).recommend(
        SessionHistory.of(sessions), RecommendOptions(k=TRACKS, dial=dial)
    )
    for session, rows, scores, kept in zip(sessions, found.rows_BK, found.scores_BK, found.kept_BK, strict=True):
        expected, probability = by_hand(session, OPTIONS[dial])
        left = sorted(set(range(TRACKS)) - {row for row, _ in session}, key=lambda row: -expected[row])
        assert sorted(rows[: len(left)]) == sorted(left) and (rows[len(left) :] == -1).all()
        np.testing.assert_allclose(scores[: len(left)], expected[left], atol=1e-4)
        np.testing.assert_allclose(scores[: len(left)], expected[rows[: len(left)]], atol=1e-4)
        np.testing.assert_allclose(kept[: len(left)], probability[rows[: len(left)]], atol=1e-5)
        assert not kept[len(left) :].any()


def test_flags_strengths_and_nothing_known(export: Path):
    """A flag stands for strength 2; without flags nothing is known of any play."""
    recommender = TrackRecommender.load(export)
    tracks = [IDS[1], IDS[2]]
    told = {
        "flags": (pa.table({"tracks": [tracks], "skips": [[True, False]]}), [(1, 2), (2, 0)]),
        "strengths": (pa.table({"tracks": [tracks], "skips": [[3, 1]]}), [(1, 3), (2, 1)]),
        "nothing": (pa.table({"tracks": [tracks]}), [(1, UNKNOWN), (2, UNKNOWN)]),
        "nulls": (pa.table({"tracks": [tracks], "skips": pa.array([[None, None]])}), [(1, UNKNOWN), (2, UNKNOWN)]),
        "some": (pa.table({"tracks": [tracks], "skips": [[None, True]]}), [(1, UNKNOWN), (2, 2)]),
    }
    for table, session in told.values():
        ranked = recommender.recommend(table, k=5, dial=2.0)
        scores, kept = by_hand(session, 2.0)
        rows = [IDS.index(track) for track in ranked["tracks"][0].as_py()]
        np.testing.assert_allclose(ranked["scores"][0].as_py(), scores[rows], atol=1e-4)
        np.testing.assert_allclose(ranked["kept"][0].as_py(), kept[rows], atol=1e-5)


def test_neighbours_are_those_of_embeddings_alone(opened: OpenExport):
    rows = Recommender(opened, ExactSearch(opened.vectors)).similar(np.array([3]), 5, "cosine")[0][0]
    unit = ROWS[:, :DIM] / np.linalg.norm(ROWS[:, :DIM], axis=1, keepdims=True)
    likeness = unit @ unit[3]
    likeness[3] = -np.inf
    assert rows.tolist() == np.argsort(-likeness)[:5].tolist()


def drawn(folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """An export of random rows that is large enough for an index; its rows and its queries."""
    random = np.random.default_rng(7)
    rows = random.standard_normal((1500, DIM + KEEP)).astype(np.float32)
    queries = random.standard_normal((40, DIM + KEEP)).astype(np.float32)
    ids = [f"t_{row:04}" for row in range(len(rows))]
    return write_made(folder, ids, rows, keep=HEAD, signals_MD=SIGNALS, queries_SD=queries), rows, queries


def test_the_index_is_measured_by_the_queries_that_rank(tmp_path: Path):
    """Recall is that of [q, dial r] among rows [e, f]; by q alone, other tracks would be the best."""
    export, rows, queries = drawn(tmp_path / "export")
    index(IndexConfig(export, kinds=("hnsw",), threads=1, recall=0.5))
    opened = OpenExport.open(export)
    found = open_search(opened, "index").search(torch.from_numpy(queries), 10, torch.empty(40, 0, dtype=torch.int64))[0]
    best, by_next = (np.argsort(-queries[:, :dim] @ rows[:, :dim].T, axis=1)[:, :10] for dim in (DIM + KEEP, DIM))
    entry = opened.manifest.index
    measured = next(one.recall_at_10 for one in entry.measured if one.search == entry.search)
    assert measured == pytest.approx(shared(found.numpy(), best), abs=1e-6) and measured > 0.5 > shared(by_next, best)


def test_the_index_is_measured_at_other_dials(tmp_path: Path):
    """What is found of the ten best at each setting of the curve, by brute force; queries are stored for dial 1."""
    export, rows, queries = drawn(tmp_path / "export")
    change(export, queries=json.loads((export / "manifest.json").read_text())["queries"] | {"dial": 1.0})
    index(IndexConfig(export, kinds=("hnsw",), threads=1, recall=0.5))
    opened = OpenExport.open(export)
    search, measured = open_search(opened, "index"), opened.manifest.index.dials
    assert [one.dial for one in measured] == [point["dial"] for point in HEAD["curve"]]
    for one in measured:
        turned = queries * np.array([1.0] * DIM + [one.dial] * KEEP, dtype=np.float32)
        found = search.search(torch.from_numpy(turned), 10, torch.empty(40, 0, dtype=torch.int64))[0]
        best = np.argsort(-turned @ rows.T, axis=1)[:, :10]
        assert one.recall_at_10 == pytest.approx(shared(found.numpy(), best), abs=1e-6)
    assert np.allclose(opened.queries().numpy()[:, DIM:], queries[:, DIM:] * HEAD["dial"])


def shared(found: np.ndarray, best: np.ndarray) -> float:
    return float(np.mean([len({*few} & {*most}) / 10 for few, most in zip(found, best, strict=True)]))


def test_on_the_command_line(export: Path, run):  # noqa: F811
    said = run(
        "recommend", "--export", str(export), "--session", "t_01:kept,t_02:skip", "-k", "2", "--dial", "auto"
    ).said
    scores, kept = by_hand([(1, 0), (2, 2)], 0.75)
    best = [row for row in np.argsort(-scores) if row not in (1, 2)][:2]
    lines = " ".join(f"{rank} {IDS[row]} {scores[row]:.4f} {kept[row]:.4f}" for rank, row in enumerate(best, start=1))
    assert said == f"rank track score P(kept) {lines} --dial auto is 0.75 here"


def test_unmarked_is_not_known_and_a_dial_beyond_the_curve_is_said(export: Path, run):  # noqa: F811
    words = ["recommend", "--export", str(export), "-k", "2", "--session"]
    for session, plays in (("t_01,t_02:skip", [(1, UNKNOWN), (2, 2)]), ("t_01:kept,t_02", [(1, 0), (2, UNKNOWN)])):
        scores, _ = by_hand(plays, 0.0)
        best = [row for row in np.argsort(-scores) if row not in (1, 2)][:2]
        assert all(f"{IDS[row]} {scores[row]:.4f}" in run(*words, session).said for row in best)
    beyond = "dial 2 lies beyond 0.75, up to which"
    assert f"warning: {beyond}" in run(*words, "t_01", "--dial", "2").said
    assert "warning" not in run(*words, "t_01", "--dial", "0.75").said
    recommender = TrackRecommender.load(export)
    with pytest.warns(UserWarning, match=beyond):
        recommender.recommend([IDS[1]], dial=2.0)


def test_an_encoder_of_another_shape_is_refused(tmp_path: Path):
    folder = write_made(tmp_path / "export", IDS, ROWS, keep=HEAD, signals_MD=SIGNALS)
    for fields, named in (
        ({"keep": {}}, "is no encoder of rows"),
        ({"keep": HEAD | {"dim": 8}}, "is no encoder of rows"),
        ({"signals": []}, "has other signals than its config's inputs"),
    ):
        before = (folder / "manifest.json").read_text()
        change(folder, **fields)
        with pytest.raises(UserError, match=named):
            OpenExport.open(folder)
        (folder / "manifest.json").write_text(before)
    OpenExport.open(folder)


@pytest.mark.parametrize("dial", OPTIONS)
def test_queries_for_other_systems(export: Path, dial):
    """The rows [e | f] times the query are the scores at this setting."""
    recommender, session, skipped = TrackRecommender.load(export), [IDS[1], IDS[2], IDS[9]], [False, True, False]
    ranked = dict(recommender.recommend(session, skipped, k=TRACKS, dial=dial, exclude="none"))
    scores = ROWS @ recommender.encode(session, skipped, dial)
    np.testing.assert_allclose(scores, [ranked[track] for track in IDS], atol=1e-4)
    with pytest.raises(UserError, match="dial 'up' must be auto"):
        recommender.encode(session, skipped, "up")
