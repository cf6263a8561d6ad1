"""Search by an index: as the exact search where the index is exact, for any k and any rows left out, from threads."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from skipwise.common.errors import UserError
from skipwise.components.index import index
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.config import IndexConfig
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.search.faiss_build import build
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.search.stored import open_search
from skipwise.retrieval.vectors import Piece, Vectors
from tests.retrieval.search.exports import DIM, change_index, norms_matter, put, write_by_hand


def flat(vectors: Vectors, dim: int):
    found = faiss.IndexFlatIP(dim)
    for _, block_BD in vectors.blocks():
        found.add(block_BD.numpy())
    return found


def nothing(queries: torch.Tensor) -> torch.Tensor:
    return torch.empty(len(queries), 0, dtype=torch.int64)


@settings(max_examples=80, deadline=None)
@given(some.data())
def test_over_a_flat_index_it_is_the_exact_search(data):
    rows, queries, k, excluded = (data.draw(some.integers(*bounds)) for bounds in ((1, 40), (1, 4), (1, 50), (0, 6)))
    # Small whole numbers: products are exact, and many are equal, so that ties are met and their order is tested.
    number = some.integers(-2, 2)
    table = np.array(data.draw(some.lists(number, min_size=4 * rows, max_size=4 * rows)), dtype=np.float32)
    asked = np.array(data.draw(some.lists(number, min_size=4 * queries, max_size=4 * queries)), dtype=np.float32)
    left_out = data.draw(
        some.lists(some.integers(-1, rows - 1), min_size=queries * excluded, max_size=queries * excluded)
    )
    table, asked = table.reshape(rows, 4), torch.from_numpy(asked.reshape(queries, 4))
    left_out = torch.tensor(left_out, dtype=torch.int64).view(queries, excluded)
    cut = data.draw(some.integers(0, rows))
    pieces = [Piece(first, part) for first, part in ((0, table[:cut]), (cut, table[cut:])) if len(part)]
    vectors = Vectors(pieces)
    # Of equal scores FAISS keeps any: only where all rows are candidates are those that are listed the same.
    ours = IndexSearch(flat(vectors, 4), vectors, {"shortlist": rows})
    exact_rows, exact_scores = ExactSearch(vectors).search(asked, k, left_out)
    found_rows, found_scores = ours.search(asked, k, left_out)
    assert torch.equal(found_rows, exact_rows) and torch.equal(found_scores, exact_scores)
    _, scores = IndexSearch(flat(vectors, 4), vectors, {}).search(asked, k, left_out)
    assert torch.equal(scores, exact_scores)


@pytest.mark.parametrize("kind", ["fastscan", "ivfpq", "hnsw"])
def test_excluded_rows_are_made_up_for(kind: str):
    table, queries = norms_matter(800, 30)
    vectors, queries = Vectors([Piece(0, table)]), torch.from_numpy(queries)
    built = build(kind, vectors, len(table))
    everything = {"efSearch": 800} if kind == "hnsw" else {"shortlist": 800}
    if kind == "ivfpq":
        everything["nprobe"] = built.parameters["nlist"]
    search, exact = IndexSearch(built.index, vectors, everything), ExactSearch(vectors)
    best, _ = exact.search(queries, 20, nothing(queries))
    rows, scores = search.search(queries, 10, best)
    expected, expected_scores = exact.search(queries, 10, best)
    assert (rows == expected).float().mean() > 0.97 and (rows >= 0).all()
    assert not (rows[:, :, None] == best[:, None]).any()
    same = rows == expected
    assert torch.allclose(scores[same], expected_scores[same], rtol=1e-5, atol=1e-5)
    scored = torch.einsum("qkd,qd->qk", torch.from_numpy(table)[rows], queries)
    assert torch.allclose(scores, scored, rtol=1e-5, atol=1e-5)  # inner products, whatever the index measures


def test_more_than_there_are():
    table, queries = norms_matter(50, 3)
    vectors, queries = Vectors([Piece(0, table)]), torch.from_numpy(queries)
    search = IndexSearch(build("hnsw", vectors, len(table)).index, vectors, {"efSearch": 16})
    rows, scores = search.search(queries, 60, torch.tensor([[0, 1, -1]] * 3))
    for of, score in zip(rows, scores, strict=True):
        assert sorted(of[:48].tolist()) == list(range(2, 50)) and (of[48:] == -1).all()
        assert torch.isinf(score[48:]).all() and (score[:48].diff() <= 0).all()


@pytest.mark.parametrize("dim", [1, 5, 16])
def test_a_scan_of_codes_leaves_to_the_exact_search_what_it_cannot_find(dim: int):
    """Queries of which no row scores better than another, filters, more rows than it gives, and odd widths."""
    random = np.random.default_rng(0)
    table, queries = (random.standard_normal((rows, dim), dtype=np.float32) for rows in (700, 6))
    queries[2], queries[3] = 0, np.nan
    vectors, queries = Vectors([Piece(0, table)]), torch.from_numpy(queries)
    search, exact = (
        IndexSearch(build("fastscan", vectors, 700).index, vectors, {"shortlist": 700}),
        ExactSearch(vectors),
    )
    allowed = Allowed.of(random.random(700) < 0.9)
    for k, only in ((10, None), (10, allowed), (750, None)):
        rows, scores = search.search(queries, k, nothing(queries), only)
        expected, expected_scores = exact.search(queries, k, nothing(queries), only)
        assert (rows == expected)[queries.isfinite().all(dim=1)].float().mean() > 0.99
        torch.testing.assert_close(scores, expected_scores, equal_nan=True)


def test_few_probes_find_fewer_than_asked_for():
    table, queries = norms_matter(800, 5)
    vectors, queries = Vectors([Piece(0, table)]), torch.from_numpy(queries)
    rows, scores = IndexSearch(build("ivfpq", vectors, len(table)).index, vectors, {"nprobe": 1}).search(
        queries, 400, nothing(queries)
    )
    missing = rows == -1
    assert missing.any() and torch.equal(missing, torch.isinf(scores)) and (missing.long().diff() >= 0).all()


def test_threads_with_settings_of_their_own():
    table, queries = norms_matter(1500, 64)
    vectors, queries = Vectors([Piece(0, table)]), torch.from_numpy(queries)
    built = build("ivfpq", vectors, len(table))
    searches = [IndexSearch(built.index, vectors, {"nprobe": nprobe, "shortlist": 50}) for nprobe in (1, 30)]
    alone = [search.search(queries, 10, nothing(queries))[0] for search in searches]
    assert not torch.equal(*alone)
    with ThreadPoolExecutor(4) as pool:
        turns = [number % 2 for number in range(40)]
        found = pool.map(lambda turn: searches[turn].search(queries, 10, nothing(queries))[0], turns)
        assert all(torch.equal(rows, alone[turn]) for turn, rows in zip(turns, found, strict=True))


@pytest.fixture(scope="module")
def indexed(sum_encoder: None, tmp_path_factory) -> Path:
    export = write_by_hand(tmp_path_factory.mktemp("indexed") / "export", *norms_matter(200, 5))
    index(IndexConfig(export, kinds=("hnsw",), recall=0.1, threads=1))
    return export


@pytest.fixture
def export(indexed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(indexed, tmp_path / "export"))


def refused(export: Path, which: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        open_search(OpenExport.open(export), which)
    return str(caught.value)


def test_which_search_is_opened(export: Path, by_hand):
    opened = OpenExport.open(export)
    assert [type(open_search(opened, which)) for which in ("auto", "index", "exact")] == [
        IndexSearch,
        IndexSearch,
        ExactSearch,
    ]
    without = by_hand()
    assert isinstance(open_search(OpenExport.open(without)), ExactSearch)
    assert "has no index: make one with index --export" in refused(without, "index")


def test_a_damaged_index_is_refused(export: Path):
    (file,) = export.glob("index-*.faiss")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "differs from what was written (SHA-256)" in refused(export)
    assert isinstance(open_search(OpenExport.open(export), "exact"), ExactSearch)
    file.write_bytes(content[:-9])
    assert "bytes where its index says" in refused(export)
    file.unlink()
    assert "cannot be read (No such file or directory)" in refused(export)


def test_another_index_with_the_right_hash_is_refused(export: Path):
    put(export, faiss.serialize_index(faiss.IndexFlatIP(DIM + 3)).tobytes())
    assert "cannot be read ('IxFI' where 'IHNs' was expected): make it again with index" in refused(export)
    put(export, faiss.serialize_index(faiss.IndexHNSWSQ(DIM + 3, faiss.ScalarQuantizer.QT_fp16, 32)).tobytes())
    assert f"holds 0 rows of {DIM + 3} where 200 of 32 belong: make it again with index" in refused(export)
    put(export, b"no index at all")
    assert "cannot be read (" in refused(export)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "best"},
        {"kind": None},
        {"kind": ["flat"]},
        {"search": None},
        {"search": {"efSearch": "100"}},
        {"search": {"efSearch": 0}},
        {"search": {"nprobe": 1 << 40}},
        {"search": {"other": 1}},
        {"file": "encoder.safetensors"},
        {"file": None},
    ],
)
def test_an_entry_of_another_making_is_refused(export: Path, changes: dict):
    change_index(export, **changes)
    sentence = refused(export)
    assert re.search(r"manifest.json: index.* expected .*; export again|has no field 'index\..*export again", sentence)


@pytest.mark.parametrize(
    "changes", [{"file": "../index-000000000000.faiss"}, {"file": 7}, {"bytes": "7"}, {"sha256": None}]
)
def test_an_entry_that_is_no_files_is_refused(export: Path, changes: dict):
    change_index(export, **changes)
    sentence = refused(export)
    assert "manifest.json: index" in sentence and "expected" in sentence and "export again" in sentence
