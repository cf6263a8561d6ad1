"""Every baseline's scores against the formula in plain Python, on random logs, and numbers worked by hand."""

from collections import Counter
from collections.abc import Callable
from inspect import signature
from math import exp, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines.item_neighbours import ItemKNN
from skipwise.studies.baselines.markov import Markov
from skipwise.studies.baselines.popularity import Popularity, PopularityInSession
from skipwise.studies.baselines.session_neighbours import STAN, VSKNN
from tests.conftest import write_dataset

TRACKS = 7
Log = list[list[int]]
SCORERS = [Popularity, PopularityInSession, Markov, ItemKNN, VSKNN, STAN]

rows_of_sessions = st.lists(st.lists(st.integers(0, TRACKS - 1), min_size=2, max_size=9), min_size=1, max_size=30)
histories = st.lists(st.lists(st.integers(0, TRACKS - 1), min_size=1, max_size=9), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Callable[..., SessionStore]:
    """`stored(log, tracks)`: a dataset of these sessions, 3 a row group."""
    return lambda log, tracks=TRACKS: SessionStore(
        str(
            write_dataset(
                tmp_path_factory.mktemp("scorers") / "data", [(rows, [0] * len(rows)) for rows in log], tracks, 3, 1
            )
        )
    )


def padded(rows_of: Log) -> np.ndarray:
    block = np.full((len(rows_of), max(map(len, rows_of)) + 1), -1, dtype=np.int64)
    for line, rows in zip(block, rows_of, strict=True):
        line[: len(rows)] = rows
    return block


def parts_of(log: Log, held_out: int) -> Log:
    return [rows[: len(rows) - held_out] for rows in log]


def last_position(rows: list[int], track: int) -> int:
    return len(rows) - rows[::-1].index(track)


def nearest(parts: Log, history: list[int], k: int, sample: int, similarity: Callable) -> list[tuple[list[int], float]]:
    """Neighbours and their similarities; the candidates' random order is that of the docstring."""
    order = np.random.default_rng(0).permutation(len(parts))
    candidates = [parts[number] for number in order if set(parts[number]) & set(history)][:sample]
    found = [(rows, float(np.float32(similarity(rows)))) for rows in candidates]
    return sorted(found, key=lambda pair: -pair[1])[:k]


def vsknn(parts: Log, history: list[int], k: int, sample: int) -> list[float]:
    weights = {track: (last_position(history, track) / len(history)) ** 2 for track in history}
    scores = [0.0] * TRACKS
    for rows, similarity in nearest(
        parts, history, k, sample, lambda rows: sum(weights[track] for track in set(rows) & set(history))
    ):
        step = next(step for step, track in enumerate(history[::-1], 1) if track in rows)
        for track in set(rows):
            scores[track] += similarity / step**2
    return scores


def stan(parts: Log, history: list[int], k: int, sample: int, lambda_1: float, lambda_3: float) -> list[float]:
    weights = {track: exp((last_position(history, track) - len(history)) / lambda_1) for track in history}

    def cosine(rows: list[int]) -> float:
        shared = sum(weights[track] for track in set(rows) & set(history))
        return shared / sqrt(sum(weight**2 for weight in weights.values())) / sqrt(len(set(rows)))

    scores = [0.0] * TRACKS
    for rows, similarity in nearest(parts, history, k, sample, cosine):
        matched = max(position for position, track in enumerate(rows, 1) if track in history)
        for track in set(rows):
            scores[track] += similarity * exp(-abs(last_position(rows, track) - matched) / lambda_3)
    return scores


def item_knn(parts: Log, history: list[int]) -> list[float]:
    of = [{number for number, rows in enumerate(parts) if track in rows} for track in range(TRACKS)]
    last = history[-1]
    norms = [sqrt(len(sessions) + 20) for sessions in of]
    return [len(of[last] & of[track]) / norms[last] / norms[track] * (track != last) for track in range(TRACKS)]


@settings(max_examples=150, deadline=None)
@given(
    log=rows_of_sessions,
    histories=histories,
    held_out=st.integers(0, 2),
    k=st.integers(1, 5),
    sample=st.integers(1, 8),
    lambdas=st.tuples(st.sampled_from([0.5, 1.02, 4.2]), st.sampled_from([0.5, 2.05, 4.2])),
)
def test_neighbours_vote_as_the_formulas_say(
    log: Log, histories: Log, held_out: int, k: int, sample: int, lambdas: tuple, stored: Callable
):
    store, parts = stored(log), parts_of(log, held_out)
    for found, formula in (
        (VSKNN(store, held_out, k, sample), lambda history: vsknn(parts, history, k, sample)),
        (STAN(store, held_out, k, sample, *lambdas), lambda history: stan(parts, history, k, sample, *lambdas)),
        (ItemKNN(store, held_out), lambda history: item_knn(parts, history)),
    ):
        scores_BN = found.scores(padded(histories))
        assert scores_BN.dtype == np.float32
        expected_BN = [formula(history) for history in histories]
        np.testing.assert_allclose(scores_BN, expected_BN, rtol=2e-6, atol=1e-30)


@settings(max_examples=60, deadline=None)
@given(log=rows_of_sessions, histories=histories, held_out=st.integers(0, 2))
def test_counts_order_tracks_as_pairs_of_counts_do(log: Log, histories: Log, held_out: int, stored: Callable):
    store, parts = stored(log), parts_of(log, held_out)
    plays = Counter(track for rows in parts for track in rows)
    pairs = Counter(pair for rows in parts for pair in zip(rows, rows[1:], strict=False))
    for scorer, first in (
        (Popularity, lambda history, track: 0),
        (PopularityInSession, lambda history, track: history.count(track)),
        (Markov, lambda history, track: pairs[history[-1], track]),
    ):
        scores_BN = scorer(store, held_out).scores(padded(histories))
        assert scores_BN.shape == (len(histories), TRACKS) and scores_BN.dtype == np.float32
        for history, scores_N in zip(histories, scores_BN, strict=True):
            wanted = [(first(history, track), plays[track]) for track in range(TRACKS)]
            places = {pair: place for place, pair in enumerate(sorted(set(wanted)))}
            assert np.unique(scores_N, return_inverse=True)[1].tolist() == [places[pair] for pair in wanted]


@settings(max_examples=30, deadline=None)
@given(log=rows_of_sessions, histories=histories, renamed=st.permutations(range(TRACKS)))
def test_the_numbers_of_rows_change_no_score(log: Log, histories: Log, renamed: list[int], stored: Callable):
    def rename(rows_of: Log) -> Log:
        return [[renamed[row] for row in rows] for rows in rows_of]

    stores = stored(log), stored(rename(log))
    for scorer in SCORERS:
        before, after = (scorer(store, 1) for store in stores)
        np.testing.assert_array_equal(
            before.scores(padded(histories)), after.scores(padded(rename(histories)))[:, renamed]
        )


@pytest.mark.parametrize("scorer", SCORERS)
def test_sessions_are_scored_one_by_one_or_together(scorer: Callable, stored: Callable):
    random = np.random.default_rng(1)
    log = [random.integers(0, TRACKS, 6).tolist() for _ in range(200)]
    found = scorer(stored(log), 2)
    together = found.scores(padded(log))
    np.testing.assert_array_equal(together, np.concatenate([found.scores(padded([rows])) for rows in log]))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("log", [[[3, 3]], [[0, 1], [2]]])
def test_without_a_training_play_all_tracks_tie_but_those_heard(scorer: Callable, log: Log, stored: Callable):
    scores_N = scorer(stored(log), 2).scores(np.array([[4, 5, -1]]))[0]
    heard = [4, 5] if scorer is PopularityInSession else []
    assert np.flatnonzero(scores_N).tolist() == heard


@pytest.mark.parametrize(
    ("scorer", "settings"),
    [
        (VSKNN, {"k": 500, "sample": 5000}),
        (STAN, {"k": 100, "sample": 5000, "lambda_1": 1.02, "lambda_3": 2.05}),
    ],
)
def test_settings_are_those_that_were_chosen(scorer: Callable, settings: dict[str, float]):
    defaults = {name: parameter.default for name, parameter in signature(scorer).parameters.items()}
    assert {name: defaults[name] for name in settings} == settings


LOG = [[0, 1, 2], [1, 3], [4]]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        # Similarity 1/4 + 1 to the first session, 1 to the second; both share the last track.
        ([0, 1], [1.25, 2.25, 1.25, 1, 0]),
        # 1 + 1/4, and 1/4 with the last but one: a quarter of that.
        ([1, 0], [1.25, 1.3125, 1.25, 0.0625, 0]),
        # Track 0 counts where it was last: 1 + 4/9, and 4/9 with the last but one.
        ([0, 1, 0], [13 / 9, 14 / 9, 13 / 9, 1 / 9, 0]),
    ],
)
def test_vsknn_by_hand(history: list[int], expected: list[float], stored: Callable):
    found = VSKNN(stored(LOG), 0).scores(padded([history]))[0]
    np.testing.assert_allclose(found, [*expected, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("log", [[[2, 3], [4]], [[4], [2, 3]]])
def test_rounding_decides_between_no_equal_neighbours(log: Log, stored: Callable):
    """Positions 3 and 4 of 7 weigh as much as position 5: the random order decides, whichever sum is rounded up."""
    first = log[np.random.default_rng(0).permutation(2)[0]]
    scores_N = VSKNN(stored(log), 0, k=1).scores(np.array([[0, 1, 2, 3, 4, 5, 6]]))[0]
    assert np.flatnonzero(scores_N).tolist() == first


def test_stan_by_hand(stored: Callable):
    """Weights 1/e and 1; the match is at position 2 of the first session, and 1 of the second."""
    norm = sqrt(1 + exp(-2))
    first, second = (1 + exp(-1)) / norm / sqrt(3), 1 / norm / sqrt(2)
    expected = [first * exp(-1), first + second, first * exp(-1), second * exp(-1), 0, 0, 0]
    found = STAN(stored(LOG), 0, lambda_1=1, lambda_3=1).scores(np.array([[0, 1]]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_item_knn_by_hand(stored: Callable):
    """Track 0 is in three sessions, 1 in two of them, 2 in one; a repeated play is no second session."""
    found = ItemKNN(stored([[0, 1, 1, 5], [1, 0, 5], [2, 0, 5]]), 1).scores(np.array([[2, 0, -1]]))[0]
    np.testing.assert_allclose(found, [0, 2 / sqrt(23 * 22), 1 / sqrt(23 * 21), 0, 0, 0, 0], rtol=1e-6)


def test_markov_and_popularity_in_the_session_by_hand(stored: Callable):
    """Played: 1 five times, 0 three times, 2 and 3 once. After 0 came 1 twice and 2 once, and 3 once after 1."""
    store = stored([[0, 1, 6], [0, 1, 6], [0, 2, 6], [1, 3, 6], [1, 6], [1, 6]])
    scores_N = Markov(store, 1).scores(np.array([[3, 0]]))[0]
    assert np.argsort(-scores_N, kind="stable").tolist()[:4] == [1, 2, 0, 3]
    scores_N = PopularityInSession(store, 1).scores(np.array([[3, 2, 3, 0]]))[0]
    assert np.argsort(-scores_N, kind="stable").tolist()[:4] == [3, 0, 2, 1]


def planted(kind: str) -> Log:
    """Ten playlists of ten tracks. A session plays one from anywhere on; or its tracks in any order; or one, again."""
    random = np.random.default_rng(0)
    log = []
    for _ in range(400):
        playlist, start = 10 * random.integers(10), random.integers(10)
        rows = playlist + (start + np.arange(6)) % 10
        rows = {"order": rows, "set": playlist + random.permutation(10)[:6], "repeat": np.repeat(rows[:1], 6)}[kind]
        log.append(rows.tolist())
    return log


@pytest.mark.parametrize(
    ("scorer", "kind", "least"),
    [
        (PopularityInSession, "repeat", 1.0),
        (Markov, "order", 1.0),
        (ItemKNN, "set", 0.5),
        (VSKNN, "set", 0.5),
        (STAN, "set", 0.5),
        (STAN, "order", 0.99),
    ],
)
def test_planted_structure_is_found(scorer: Callable, kind: str, least: float, stored: Callable):
    """The share of sessions whose last track, or one as good, is among the best; popularity finds few."""
    log = planted(kind)
    store = stored(log, 100)
    shares = []
    for found in (scorer(store, 1), Popularity(store, 1)):
        scores_BN = found.scores(padded([rows[:-1] for rows in log]))
        targets = np.array([rows[-1] for rows in log])
        if kind != "repeat":
            for line, rows in zip(scores_BN, log, strict=True):
                line[rows[:-1]] = -1
        k = 5 if kind == "set" else 1
        better = (scores_BN > scores_BN[np.arange(len(log)), targets][:, None]).sum(axis=1)
        shares.append((better < k).mean())
    assert shares[0] >= least > 0.3 > shares[1]
