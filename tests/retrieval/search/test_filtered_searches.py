"""Every search among some of the rows, against NumPy's ranking of all of them: exact, by an index, and grown since."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from skipwise.retrieval.search import exact, faiss_search, first_pass
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.faiss_build import build
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.search.grown import search_of
from skipwise.retrieval.vectors import Piece, Vectors

ROWS, NEW, DIM = 1200, 37, 16
FINDS_ALL = ("exact", "first pass", "all lists", "codes")


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """Whole numbers: products are exact, and ties many."""
    return np.random.default_rng(0).integers(-3, 4, (ROWS + NEW, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def searches(table) -> Iterator[dict[str, tuple[Search, int]]]:
    """By name, each and the number of its rows: of a table, and of the same with rows behind it."""
    pytest.importorskip("faiss")
    vectors, longer = (Vectors([Piece(0, table[:ROWS]), *more]) for more in ([], [Piece(ROWS, table[ROWS:])]))
    lists, graph, codes = (build(kind, vectors, ROWS).index for kind in ("ivfpq", "hnsw", "fastscan"))
    made: dict[str, Search] = {
        "exact": ExactSearch(vectors, first_pass=False),
        "all lists": IndexSearch(lists, vectors, {"nprobe": lists.nlist, "shortlist": ROWS}),
        "one list": IndexSearch(lists, vectors, {"nprobe": 1, "shortlist": 10}),
        "codes": IndexSearch(codes, vectors, {"shortlist": 64}),
        "graph": IndexSearch(graph, vectors, {"efSearch": 64}),
    }
    found = {f"{name}, grown": (search_of(one, longer, ROWS + NEW), ROWS + NEW) for name, one in made.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_AFTER_QUERIES", 1)
        patch.setattr(first_pass, "_BLOCK_ROWS", 256)
        patch.setattr(first_pass, "_PAIRS_A_ROW", 1.0)
        patch.setattr(faiss_search, "FEW_ROWS", 0)
        patch.setattr(faiss_search, "_WIDENED_BY", 60)
        with pytest.MonkeyPatch.context() as small:
            small.setattr(exact, "_FEWEST_ROWS", 1)
            passes = {
                "first pass": (ExactSearch(vectors), ROWS),
                "first pass, grown": (ExactSearch(longer), ROWS + NEW),
            }
        yield found | passes | {name: (one, ROWS) for name, one in made.items()}


@settings(max_examples=12, deadline=None)
@given(
    some.integers(0, 2**31),
    some.sampled_from([0, 0.001, 0.03, 0.5, 0.9, 1]),
    some.sampled_from([1, 10, 300, 2000]),
    some.sampled_from([0, 1, 61, 900]),
    some.sampled_from([0, 1 / 32]),
    some.sampled_from([0, 0.5, 1]),
)
def test_k_of_the_allowed_rows_in_their_order(table, searches, seed, share, k, left_out, few, taken):
    random = np.random.default_rng(seed)
    queries_QD = random.integers(-3, 4, (3, DIM)).astype(np.float32)
    excluded_QX = random.integers(-1, ROWS, (3, left_out))
    excluded_QX[1:, 5:] = -1
    allowed_R = random.random(ROWS + NEW) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_search, "_FEW_SHARE", few)
        for name in ("_TAKEN_SHARE", "_TAKEN_SHARE_FOR_FEW"):
            patch.setattr(exact, name, taken)
        for name, (search, num_rows) in searches.items():
            asked = torch.from_numpy(queries_QD), k, torch.from_numpy(excluded_QX), Allowed.of(allowed_R[:num_rows])
            rows_QK, scores_QK = search.search(*asked)
            for query_D, excluded_X, rows_K, scores_K in zip(queries_QD, excluded_QX, rows_QK, scores_QK, strict=True):
                left = allowed_R[:num_rows].copy()
                left[excluded_X[excluded_X >= 0]] = False
                score_R = table[:num_rows] @ query_D
                rows_N = np.flatnonzero(left)
                best = rows_N[np.lexsort((rows_N, -score_R[rows_N]))].tolist()
                found = [row for row in rows_K.tolist() if row >= 0]
                assert len(found) == min(k, len(best)) == len({*found}), name
                place = {row: at for at, row in enumerate(best)}
                assert {*found} <= {*best} and found == sorted(found, key=place.__getitem__), name
                assert scores_K[: len(found)].tolist() == score_R[found].tolist(), name
                assert found == best[:k] or not name.startswith(FINDS_ALL), name
