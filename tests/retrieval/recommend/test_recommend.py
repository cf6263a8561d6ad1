"""recommend and similar against numpy; what is refused; rows that are printed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.recommend.session_text import known_tracks, read_session
from skipwise.retrieval.search.stored import open_search
from skipwise.retrieval.track_ids import TrackIds
from tests.components.conftest import refused, run  # noqa: F401  a fixture
from tests.support.exports import LONGEST, Mean, stands_for_the_encoder, write_made

TRACKS, DIM = 41, 8
IDS = [f"t_{row:02}" for row in range(TRACKS - 3)] + ["spotify:track:x", "a,b", "é\x1b"]
ROWS = np.random.default_rng(3).standard_normal((TRACKS, DIM)).astype(np.float32)
ROWS[7] = 0


@pytest.fixture(scope="module", autouse=True)
def mean_encoder() -> Iterator[None]:
    with stands_for_the_encoder(Mean()):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {
        name: write_made(folder / name, IDS, ROWS, parts=3, skipped_tracks=name, skip_up_to=1)
        for name in ("read", "filter")
    }


@pytest.fixture(scope="module")
def recommenders(made) -> dict[str, Recommender]:
    opened = {name: OpenExport.open(path) for name, path in made.items()}
    return {name: Recommender(one, open_search(one)) for name, one in opened.items()}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def by_hand(session: list[tuple[int, bool]], k: int, exclude: str, kind: str) -> list[tuple[int, float]]:
    """In float64, from the formulas of the manual."""
    table = ROWS.astype(np.float64)
    read = [row for row, skipped in session if kind == "read" or not skipped][-LONGEST:]
    query = table[read].mean(axis=0) if read else np.zeros(DIM)
    skipped = [row for row, skip in session if skip]
    kept = [row for row, skip in session if not skip]
    out = {"session": skipped + kept, "kept": kept, "skipped": skipped, "none": []}[exclude]
    scores = {row: score for row, score in enumerate(table @ query) if row not in out}
    return sorted(scores.items(), key=lambda one: -one[1])[:k]


SESSIONS = st.lists(
    st.lists(st.tuples(st.integers(0, TRACKS - 1), st.booleans()), min_size=1, max_size=12), min_size=1, max_size=5
)


@settings(max_examples=80, deadline=None)
@given(
    sessions=SESSIONS,
    k=st.sampled_from([1, 5, TRACKS]),
    exclude=st.sampled_from(["session", "kept", "skipped", "none"]),
    kind=st.sampled_from(["read", "filter"]),
)
def test_ranked_as_by_hand(recommenders, sessions, k, exclude, kind):
    rows_BK, scores_BK, kept_BK = recommenders[kind].recommend(
        SessionHistory.of(sessions), RecommendOptions(k=k, exclude=exclude)
    )
    assert rows_BK.shape == scores_BK.shape == (len(sessions), k) and kept_BK is None
    for session, rows, scores in zip(sessions, rows_BK, scores_BK, strict=True):
        expected = by_hand(session, k, exclude, kind)
        found = rows[rows >= 0]
        assert len(found) == len(expected) and (rows[len(found) :] == -1).all() and len(set(found)) == len(found)
        assert np.isneginf(scores[len(found) :]).all()
        np.testing.assert_allclose(scores[: len(found)], [score for _, score in expected], atol=1e-4)
        of_row = dict(by_hand(session, TRACKS, exclude, kind))
        np.testing.assert_allclose([of_row[row] for row in found], scores[: len(found)], atol=1e-4)


def test_no_session_has_no_answer(recommenders):
    rows, scores, _ = recommenders["read"].recommend(SessionHistory.of([]), RecommendOptions(k=4))
    assert rows.shape == scores.shape == (0, 4)


@pytest.mark.parametrize("by", ["cosine", "inner-product"])
def test_neighbours_as_by_hand(made, by: str, monkeypatch):
    monkeypatch.setattr("skipwise.retrieval.vectors.BLOCK_ROWS", 5)
    opened = OpenExport.open(made["read"])
    table = unit(ROWS) if by == "cosine" else ROWS
    for row in (0, 7, TRACKS - 1):
        scores = table @ table[row]
        scores[row] = -np.inf
        (rows,), (likeness,) = Recommender(opened, open_search(opened)).similar(np.array([row]), TRACKS, by)
        assert rows[-1] == -1 and row not in rows[:-1] and sorted(rows[:-1]) == sorted(set(range(TRACKS)) - {row})
        np.testing.assert_allclose(likeness[:-1], np.sort(scores)[::-1][:-1], atol=1e-5)
        np.testing.assert_allclose(likeness[:-1], scores[rows[:-1]], atol=1e-5)


def test_a_session_on_the_command_line(made, run):  # noqa: F811
    words = ["recommend", "--export", str(made["read"]), "--session", "t_01, t_02:skip,spotify:track:x"]
    said = run(*words, "-k", "3").said
    expected = by_hand([(1, False), (2, True), (TRACKS - 3, False)], 3, "session", "read")
    table = " ".join(f"{rank} {IDS[row]} {score:.4f}" for rank, (row, score) in enumerate(expected, start=1))
    assert said == f"rank track score {table}"
    assert run(*words, "--k", "3").said == said
    more = run(*words, "-k", "10000").said
    assert "é\\x1b" in more and "t_01" not in more and len(more.split()) == 3 + 3 * (TRACKS - 3)


def test_marks_of_a_session():
    """Unmarked is not known; marks are read off the end alone, and an id may look like one."""
    told = read_session('t_1, t_2:skip ,t_3:kept,a:skip:kept,t_4:skipped, "a,b:skip":skip,"x","say ""y""" :kept,"z,z"y')
    assert [play[:2] for play in told] == [
        ("t_1", None),
        (" t_2", True),
        ("t_3", False),
        ("a:skip", False),
        ("t_4:skipped", None),
        ("a,b:skip", True),
        ("x", None),
        ('say "y"', False),
        ('"z', None),
        ('z"y', None),
    ]


@settings(max_examples=100, deadline=None)
@given(
    ids=st.lists(st.text(st.sampled_from('a ",:skipé'), min_size=1, max_size=9), min_size=1, max_size=5, unique=True),
    data=st.data(),
)
def test_any_id_can_be_given(ids: list[str], data: st.DataObject):
    """In quotes always; without them where it has no comma, quotes or mark, blanks at its ends among the rest."""
    tracks, words = TrackIds(pa.array(ids)), []
    for one in ids:
        bare = one.strip() and not set('",:') & set(one) and data.draw(st.booleans())
        words.append(one if bare else '"{}"'.format(one.replace('"', '""')))
    assert known_tracks(tracks, read_session(",".join(words))) == ids
    marked = read_session(",".join(f"{word}:skip" for word in words))
    assert known_tracks(tracks, marked) == ids and all(play.skipped for play in marked)


def test_blanks_around_an_id():
    tracks = TrackIds(pa.array([" lead", "tail ", "plain"]))
    assert known_tracks(tracks, read_session("plain , lead,tail :kept,  plain:skip")) == [
        "plain",
        " lead",
        "tail ",
        "plain",
    ]


def test_similar_on_the_command_line(made, run):  # noqa: F811
    said = run("similar", "--export", str(made["read"]), "--track", "t_05", "-k", "1").said.split()
    assert said[4] == IDS[np.argsort(-(unit(ROWS) @ unit(ROWS[5])))[1]]
    refused(run("similar", "--export", str(made["read"]), "--track", ""), "--track is empty")
    refused(
        run("similar", "--export", str(made["read"]), "--track", "t_005"),
        "the track 't_005' is not among the 41 tracks",
        "perhaps 't_00'",
    )
    refused(run("similar", "--export", str(made["read"]), "--track", "t_05", "-k", "0"), "k 0 must lie in 1..10000")
    every = run("similar", "--export", str(made["read"]), "--track", "t_05", "-k", "10000").said.split()
    assert len(every) == 3 + 3 * (TRACKS - 1)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--session", ""], ["--session is empty"]),
        (["--session", "  "], ["--session is empty"]),
        (["--session", "t_01,,t_02"], ["no track in place 2"]),
        (["--session", "t_01,:skip"], ["no track in place 2"]),
        (["--session", "t_01,t_2"], ["place 2", "'t_2' is not among the 41 tracks", "perhaps 't_"]),
        (["--session", "t_01,t_02:skipped"], ["place 2: 't_02:skipped' is no track: write :skip behind an id"]),
        (["--session", "t_01,:kept"], ["no track in place 2"]),
        (["--session", "\udcff"], ["place 1", "is not among"]),
        (["--session", "a,b"], ["cannot tell 'a,b'", "in quotes"]),
        (["--session", '""'], ["place 1"]),
        (["--session", '" t_01"'], ["' t_01' is not among"]),
        (["--session", "t_01", "-k", "0"], ["k 0 must lie in 1..10000"]),
        (["--session", "t_01", "-k", "10001"], ["k 10001 must lie in 1..10000"]),
        (["--session", "t_01", "--dial", "-1"], ["dial -1.0 must be auto or lie in 0..100"]),
        (["--session", "t_01", "--dial", "nan"], ["dial"]),
        (["--session", "t_01", "--dial", "101"], ["dial 101.0 must be auto or lie in 0..100"]),
        (["--session", "t_01", "--dial", "0.5"], ["dial 0.5 needs a keep head", "--loss.keep"]),
        (["--session", "t_01", "--dial", "auto"], ["dial auto needs a keep head"]),
        (["--session", "t_01", "--input", "x", "--output", "y"], ["either --session or --input"]),
        (["--session", "t_01", "--output", "y"], ["go with --input"]),
        (["--session", "t_01", "--search", "index"], ["has no index"]),
        ([], ["either --session or --input"]),
        (["--input", "x"], ["--input needs --output"]),
        (["--input", "x", "--output", "y", "--batch", "0"], ["--batch 0 must lie in"]),
    ],
)
def test_refusals(made, run, words: list[str], wanted: list[str]):  # noqa: F811
    refused(run("recommend", "--export", str(made["read"]), *words), *wanted)


def test_a_session_of_which_nothing_is_read(recommenders):
    """Its answer does not depend on who is asked for beside it."""
    alone = recommenders["filter"].queries(SessionHistory.of([[(3, True)]]))
    beside = recommenders["filter"].queries(SessionHistory.of([[(4, False)] * 9, [(3, True), (5, True)]]))
    assert torch.equal(alone[0], beside[1]) and torch.isfinite(alone).all()
