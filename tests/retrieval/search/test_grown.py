"""A table that has grown and changed since its index was made, against the exact search of it."""

import numpy as np
import pytest
import torch

from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.search.grown import GrownSearch, search_of
from skipwise.retrieval.vectors import Piece, Vectors


@pytest.mark.parametrize("indexed", [1200, 1203, 1207])
@pytest.mark.parametrize("share", [None, 0.02, 0.3, 0.95])
def test_an_index_and_what_is_behind_it_find_what_the_exact_search_finds(indexed: int, share: float | None):
    faiss = pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    rows_RD = random.standard_normal((1300, 8)).astype(np.float32)
    index = faiss.IndexFlatIP(8)
    index.add(rows_RD[:indexed])
    own_RD = rows_RD[: indexed - 100]
    vectors = Vectors([Piece(0, own_RD), Piece(indexed - 100, rows_RD[indexed - 100 :])])
    before = IndexSearch(index, Vectors([Piece(0, rows_RD[:indexed])]), {})
    grown = search_of(search_of(before, vectors, 1300), vectors, 1300)
    assert isinstance(grown, GrownSearch)
    allowed = None if share is None else Allowed.of(random.random(1300) < share)
    queries_QD = torch.from_numpy(random.standard_normal((20, 8)).astype(np.float32))
    excluded_QX = torch.from_numpy(random.integers(-1, 1300, (20, 5)))
    rows_QK, scores_QK = grown.search(queries_QD, 30, excluded_QX, allowed)
    expected = ExactSearch(vectors).search(queries_QD, 30, excluded_QX, allowed)
    assert rows_QK.equal(expected[0])
    torch.testing.assert_close(scores_QK, expected[1])
    own_RD[:] = own_RD[:, ::-1].copy()  # a delta is written: candidates by the index, scores by the rows as they are
    rows_QK, scores_QK = grown.search(queries_QD, 1, excluded_QX)
    found = torch.from_numpy(vectors.take(rows_QK[:, 0].numpy()))
    torch.testing.assert_close(scores_QK[:, 0], (found * queries_QD).sum(dim=1))
