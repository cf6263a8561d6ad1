"""Searches among some of the rows: the exact one against NumPy, an index against the exact one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from skipwise.retrieval.search import exact as exact_search
from skipwise.retrieval.search import faiss_search
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.search.faiss_build import build
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.vectors import Piece, Vectors
from tests.retrieval.search.exports import norms_matter

ROWS = 2000


def nothing(queries: torch.Tensor) -> torch.Tensor:
    return torch.empty(len(queries), 0, dtype=torch.int64)


@settings(max_examples=60, deadline=None)
@given(some.lists(some.booleans(), min_size=1, max_size=70))
def test_bits(allowed_R):
    allowed = Allowed.of(np.array(allowed_R))
    rows = [row for row, one in enumerate(allowed_R) if one]
    assert allowed.rows().tolist() == rows and allowed.count == len(rows)
    assert allowed.mask().tolist() == allowed_R


@settings(max_examples=80, deadline=None)
@given(some.integers(0, 2**31), some.floats(0, 1), some.integers(1, 30), some.integers(0, 8), some.sampled_from([0, 1]))
def test_the_exact_search_among_some_rows(seed, share, k, width, taken):
    """Whole numbers: products are exact, and ties many. Both ways of the search, over two pieces."""
    random = np.random.default_rng(seed)
    table_RD = random.integers(-2, 3, (50, 4)).astype(np.float32)
    queries_QD, excluded_QX = random.integers(-2, 3, (3, 4)).astype(np.float32), random.integers(-1, 50, (3, width))
    allowed_R = random.random(50) < share
    vectors = Vectors([Piece(0, table_RD[:30]), Piece(30, table_RD[30:])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "_TAKEN_SHARE", taken)
        patch.setattr(exact_search, "BLOCK_ROWS", 16)
        rows_QK, scores_QK = ExactSearch(vectors).search(
            torch.from_numpy(queries_QD), k, torch.from_numpy(excluded_QX), Allowed.of(allowed_R)
        )
    for query_D, excluded_X, rows_K, scores_K in zip(queries_QD, excluded_QX, rows_QK, scores_QK, strict=True):
        left = [row for row in np.flatnonzero(allowed_R) if row not in excluded_X]
        best = sorted(left, key=lambda row: (-(table_RD[row] @ query_D), row))[:k]
        assert rows_K.tolist() == best + [-1] * (k - len(best))
        assert scores_K.tolist() == [table_RD[row] @ query_D for row in best] + [-np.inf] * (k - len(best))


@pytest.fixture(scope="module", params=["ivfpq", "hnsw"])
def searches(request):
    """By an index at a good setting, and exactly; and 30 queries."""
    table, queries = norms_matter(ROWS, 30)
    vectors = Vectors([Piece(0, table)])
    built = build(request.param, vectors, ROWS)
    good = {"hnsw": {"efSearch": 200}, "ivfpq": {"nprobe": 20, "shortlist": 200}}[request.param]
    return IndexSearch(built.index, vectors, good), ExactSearch(vectors), torch.from_numpy(queries)


@pytest.mark.parametrize("share", [0.9, 0.4, 0.1, 0.02])
def test_an_index_finds_the_best_of_those_allowed(searches, share, monkeypatch):
    search, exact, queries = searches
    monkeypatch.setattr(faiss_search, "FEW_ROWS", 0)
    monkeypatch.setattr(faiss_search, "_FEW_SHARE", 0)
    allowed = Allowed.of(np.random.default_rng(7).random(ROWS) < share)
    expected, _ = exact.search(queries, 10, nothing(queries), allowed)
    rows, scores = search.search(queries, 10, nothing(queries), allowed)
    assert allowed.mask()[rows].all() and (rows >= 0).all()
    assert (rows[:, :, None] == expected[:, None]).any(dim=2).float().mean() > 0.85
    assert (scores.diff(dim=1) <= 0).all()


def test_among_few_the_exact_search_answers(searches, monkeypatch):
    search, exact, queries = searches
    allowed = Allowed.of(np.arange(ROWS) % 3 > 0)
    monkeypatch.setattr(search, "_index", None)
    found, expected = (one.search(queries, 10, nothing(queries), allowed) for one in (search, exact))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_queries_that_find_too_few_are_searched_exactly(searches, monkeypatch):
    """An index that gives a query nothing, and another one all."""
    search, exact, queries = searches
    monkeypatch.setattr(faiss_search, "FEW_ROWS", 0)
    allowed = Allowed.of(np.arange(ROWS) % 3 > 0)
    found = search._search

    def lossy(*arguments):
        rows_QK, scores_QK = found(*arguments)
        rows_QK[0, 3:], scores_QK[0, 3:] = -1, float("-inf")
        return rows_QK, scores_QK

    monkeypatch.setattr(search, "_search", lossy)
    rows, scores = search.search(queries, 10, nothing(queries), allowed)
    expected = exact.search(queries[:1], 10, nothing(queries[:1]), allowed)
    assert torch.equal(rows[:1], expected[0]) and torch.equal(scores[:1], expected[1]) and (rows >= 0).all()


@pytest.mark.parametrize("most", [50, 2000])
def test_many_rows_left_out_of_one_query(searches, most, monkeypatch):
    """An artist's many tracks, which are the best of all: made up for, or searched exactly; others lose nothing."""
    search, exact, queries = searches
    monkeypatch.setattr(faiss_search, "FEW_ROWS", 0)
    monkeypatch.setattr(faiss_search, "_WIDENED_BY", most)
    allowed = Allowed.of(np.ones(ROWS, dtype=bool))
    best, _ = exact.search(queries, 300, nothing(queries), allowed)
    left_out = best.clone()
    left_out[5:] = -1
    rows, _ = search.search(queries, 10, left_out, allowed)
    expected, _ = exact.search(queries, 10, left_out, allowed)
    assert (rows >= 0).all() and not (rows[:5, :, None] == best[:5, None]).any()
    assert most > 300 or torch.equal(rows[:5], expected[:5])
    assert (rows[:, :, None] == expected[:, None]).any(dim=2).float().mean() > 0.85
