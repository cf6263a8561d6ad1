"""The first pass of the exact search: with it, the best rows and their scores are those without it, bit for bit."""

import gc
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from torch import Tensor

from skipwise.retrieval import shared_rows
from skipwise.retrieval.export.row_encoding import encode
from skipwise.retrieval.search import exact, first_pass
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.search.first_pass import FirstPass, is_fast
from skipwise.retrieval.search.row_codes import RowCodes
from skipwise.retrieval.vectors import Piece, Vectors

pytestmark = pytest.mark.skipif(not is_fast(), reason="this processor has no instructions for bytes (VNNI)")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of some hundred rows have a first pass, in several blocks."""
    monkeypatch.setattr(exact, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(exact, "_AFTER_QUERIES", 1)
    monkeypatch.setattr(first_pass, "_BLOCK_ROWS", 256)
    monkeypatch.setattr(first_pass, "_LAST_MULTIPLE", 256)
    monkeypatch.setattr(first_pass, "_PAIRS_A_ROW", 1.0)


def best(table: Tensor, queries: Tensor, k: int, excluded: Tensor) -> tuple[list[list[int]], Tensor]:
    """Of every row, scored one by one, by Python's own sort: descending score, then ascending row."""
    scores_QR = torch.stack([(table * query).sum(dim=1) for query in queries])
    rows, scores = [], torch.full((len(queries), k), float("-inf"))
    for query, of_rows in enumerate(scores_QR):
        left = set(range(len(table))) - set(excluded[query].tolist())
        order = sorted(left, key=lambda row: (-float(of_rows[row]), row))[:k]
        rows.append(order + [-1] * (k - len(order)))
        scores[query, : len(order)] = of_rows[order]
    return rows, scores


def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each first pass from here on gives an answer."""
    calls, pairs = [], FirstPass.pairs

    def noted(self, *inputs):
        calls.append((found := pairs(self, *inputs)) is not None)
        return found

    monkeypatch.setattr(FirstPass, "pairs", noted)
    return calls


@settings(max_examples=30, deadline=None)
@example(seed=197, rows=1, dim=1, num_queries=1, k=1, kind="whole numbers")  # one query, and it is zero
@given(
    seed=some.integers(0, 10_000),
    rows=some.sampled_from([1, 31, 65, 700, 1100]),
    dim=some.sampled_from([1, 3, 8, 33]),
    num_queries=some.sampled_from([1, 6, 67]),
    k=some.sampled_from([1, 7, 40, 70]),
    kind=some.sampled_from(
        ["whole numbers", "normal", "long and short", "far from 0", "one column", "all alike", "zero rows", "huge"]
    ),
)
def test_equal_to_scoring_every_row(seed: int, rows: int, dim: int, num_queries: int, k: int, kind: str):
    generator = torch.Generator().manual_seed(seed)
    table, queries = (torch.randn(count, dim, generator=generator) for count in (rows, num_queries))
    if kind == "whole numbers":  # many ties, at the last place too
        table, queries = (2 * table).round(), (2 * queries).round()
    elif kind == "long and short":
        table *= torch.logspace(-6, 3, rows)[torch.randperm(rows, generator=generator), None]
    elif kind == "far from 0":  # all scores are negative for some queries
        table += 100 * torch.randn(dim, generator=generator)
    elif kind == "one column":
        table[:, 1:] = 0.25
    elif kind == "all alike":
        table = table[:1].repeat(rows, 1)
    elif kind == "zero rows":  # they are among the best where few are not
        table[torch.rand(rows, generator=generator) < 0.9] = 0
    elif kind == "huge":
        table *= 1e12
    queries[5:6] = 0
    excluded = torch.randint(-1, rows, (num_queries, 4), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        calls = taken(patch)
        found, scores = ExactSearch(Vectors([Piece(0, table.numpy())])).search(queries, k, excluded)
    expected, expected_scores = best(table, queries, k, excluded)
    assert all(calls) and found.tolist() == expected and torch.equal(scores, expected_scores)


@pytest.mark.parametrize(("k", "num_calls"), [(5, 2), (65, 5)])
def test_many_queries_are_taken_in_parts(k: int, num_calls: int, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(9)
    table, queries = (torch.randn(count, 8, generator=generator) for count in (700, 260))
    excluded, calls = torch.randint(-1, 700, (260, 2), generator=generator), taken(monkeypatch)
    found, scores = ExactSearch(Vectors([Piece(0, table.numpy())])).search(queries, k, excluded)
    expected, expected_scores = best(table, queries, k, excluded)
    assert calls == [True] * num_calls and found.tolist() == expected and torch.equal(scores, expected_scores)


def test_rows_that_are_not_allowed(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(6)
    table, queries = (torch.randn(count, 8, generator=generator) for count in (500, 5))
    allowed_R, none = torch.rand(500, generator=generator) < 0.6, torch.full((5, 1), -1)
    calls, allowed = taken(monkeypatch), Allowed.of(allowed_R.numpy())
    found, scores = ExactSearch(Vectors([Piece(0, table.numpy())])).search(queries, 30, none, allowed)
    left_out = (~allowed_R).nonzero().T.expand(5, -1)
    expected, expected_scores = best(table, queries, 30, left_out)
    assert calls == [True] and found.tolist() == expected and torch.equal(scores, expected_scores)


def test_codes_cannot_tell_the_best_apart(monkeypatch: pytest.MonkeyPatch):
    """2,000 rows differ by less than a step of their codes, which one long row has made large."""
    generator = torch.Generator().manual_seed(1)
    table, queries = 1e-4 * torch.rand(2000, 16, generator=generator), torch.rand(3, 16, generator=generator) + 0.1
    table += 1
    table[700] = -50
    for few in (False, True):
        if few:
            monkeypatch.setattr(first_pass, "_PAIRS_A_ROW", 1 / 256)
        calls, none = taken(monkeypatch), torch.full((3, 1), -1)
        found, scores = ExactSearch(Vectors([Piece(0, table.numpy())])).search(queries, 5, none)
        expected, expected_scores = best(table, queries, 5, none)
        torch.testing.assert_close(scores, expected_scores)
        assert calls == [not few] and (few or found.tolist() == expected)


def test_queries_that_it_cannot_take_are_answered_beside_the_others(monkeypatch: pytest.MonkeyPatch):
    table, queries = torch.randn(500, 4, generator=torch.Generator().manual_seed(2)), torch.ones(5, 4)
    queries[1, 2], queries[2], queries[3] = float("nan"), 3e38, 1e-30
    calls, none = taken(monkeypatch), torch.full((5, 1), -1)
    rows, scores = ExactSearch(Vectors([Piece(0, table.numpy())])).search(queries, 3, none)
    assert calls == [True] and scores[1].isnan().all() and scores[2].isinf().all()
    assert rows[[0, 3, 4]].tolist() == best(table, queries[[0, 3, 4]], 3, none)[0]


def test_it_is_given_up_where_it_never_helps(monkeypatch: pytest.MonkeyPatch):
    table = torch.randn(700, 16, generator=torch.Generator().manual_seed(8))
    table[3] *= 1e4  # all others have the same codes
    monkeypatch.setattr(first_pass, "_PAIRS_A_ROW", 1 / 256)
    search, calls, queries = ExactSearch(Vectors([Piece(0, table.numpy())])), taken(monkeypatch), table[10:12]
    for _ in range(5):
        found, _ = search.search(queries, 5, torch.full((2, 1), -1))
        assert found.tolist() == best(table, queries, 5, torch.full((2, 1), -1))[0]
    assert calls == [False] * 3


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_of_every_kind_of_export(dtype: str, unit: bool, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(3)
    table, queries = torch.randn(900, 24, generator=generator), torch.randn(9, 24, generator=generator)
    encoded = encode(table, dtype, np.arange(900))
    vectors = Vectors([Piece(first, encoded[first : first + 300], dtype) for first in (0, 300, 600)]).narrowed(20)
    meant = torch.cat([block for _, block in vectors.blocks()])
    meant = torch.nn.functional.normalize(meant, dim=1) if unit else meant
    calls, excluded = taken(monkeypatch), torch.randint(-1, 900, (9, 3), generator=generator)
    found, scores = ExactSearch(vectors, unit).search(queries[:, :20], 12, excluded)
    expected, expected_scores = best(meant, queries[:, :20], 12, excluded)
    assert calls == [True] and found.tolist() == expected
    torch.testing.assert_close(scores, expected_scores, rtol=1e-6, atol=1e-6)


def test_answers_before_and_after_it_is_set_up_are_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exact, "_AFTER_QUERIES", 10)
    generator = torch.Generator().manual_seed(4)
    table, queries = torch.randn(3000, 32, generator=generator), torch.randn(9, 32, generator=generator)
    search, calls, none = ExactSearch(Vectors([Piece(0, table.numpy())])), taken(monkeypatch), torch.full((9, 1), -1)
    before, after = (search.search(queries, 20, none) for _ in range(2))
    one_by_one = [search.search(queries[one : one + 1], 20, none[:1]) for one in range(9)]
    assert len(calls) == 10 and all(calls)
    for number in range(2):
        assert torch.equal(before[number], after[number])
        assert torch.equal(torch.cat([found[number] for found in one_by_one]), after[number])


def test_others_do_not_wait_while_it_is_set_up(monkeypatch: pytest.MonkeyPatch):
    table, made, go_on = torch.randn(300, 4), threading.Event(), threading.Event()

    def slow(*inputs):
        made.set()
        assert go_on.wait(60)
        return FirstPass(*inputs)

    monkeypatch.setattr(exact, "FirstPass", slow)
    search, calls, none = ExactSearch(Vectors([Piece(0, table.numpy())])), taken(monkeypatch), torch.full((1, 1), -1)
    setter = threading.Thread(target=search.search, args=(table[:1], 3, none))
    setter.start()
    assert made.wait(60)
    rows, _ = search.search(table[:1], 3, none)
    assert rows.tolist() == best(table, table[:1], 3, none)[0] and not calls
    go_on.set()
    setter.join()
    assert calls == [True]


@settings(max_examples=6, deadline=None)
@given(seed=some.integers(0, 10_000), unit=some.booleans(), far=some.sampled_from([0.5, 1.5, 40.0]))
def test_rows_that_are_written_and_added_later(seed: int, unit: bool, far: float):
    """Those far beyond the range of the table make it be read again."""
    generator = torch.Generator().manual_seed(seed)
    table, queries = torch.randn(700, 8, generator=generator), torch.randn(17, 8, generator=generator)
    own, new = table[:600].numpy().copy(), np.zeros((100, 8), dtype=np.float32)
    none = torch.full((17, 1), -1)
    search = ExactSearch(Vectors([Piece(0, own)]), unit)
    with pytest.MonkeyPatch.context() as patch:
        calls = taken(patch)
        search.search(queries, 7, none)
        for rows in (600, 650, 650, 700):
            changed = torch.randperm(rows, generator=generator)[:40].sort().values
            changed = torch.cat([changed[changed < 600], torch.arange(600, rows)])
            table[changed] = far * torch.randn(len(changed), 8, generator=generator)
            search = search.over(Vectors([Piece(0, own), *([Piece(600, new[: rows - 600])] if rows > 600 else [])]))
            own[:], new[:] = table[:600].numpy(), table[600:].numpy()
            search.changed(changed.numpy())
            found, scores = search.search(queries, 7, none)
            meant = torch.nn.functional.normalize(table[:rows], dim=1) if unit else table[:rows]
            expected, expected_scores = best(meant, queries, 7, none)
            assert found.tolist() == expected
            torch.testing.assert_close(scores, expected_scores, rtol=1e-6, atol=1e-6)
    assert all(calls) and len(calls) == 5


def test_codes_are_made_by_one_process_and_changed_by_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_rows, "_folder", tmp_path)
    table, none = torch.randn(900, 8, generator=torch.Generator().manual_seed(5)), torch.full((20, 1), -1)
    both = [table.numpy().copy() for _ in range(2)]
    first, second = (ExactSearch(Vectors([Piece(0, own)], "a-table")) for own in both)
    first.set_up()
    monkeypatch.setattr(RowCodes, "_made", None)  # the second one makes none
    calls, changed = taken(monkeypatch), np.arange(0, 900, 3)
    both[0][changed] *= -0.5
    first = first.over(Vectors([Piece(0, both[0])]))
    first.changed(changed)
    for search, own in ((first, both[0]), (second, both[1])):
        found, scores = search.search(table[:20], 9, none)
        expected, expected_scores = best(torch.from_numpy(own), table[:20], 9, none)
        assert found.tolist() == expected and torch.equal(scores, expected_scores)
    assert calls == [True, True] and len([*tmp_path.glob("*.rows")]) == 1
    del first, second, search
    gc.collect()
    shared_rows.remove_unused()
    assert not [*tmp_path.glob("*.rows")]


def test_codes_stay_in_memory_where_the_folder_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_rows, "_folder", tmp_path)
    table, none = torch.randn(900, 8), torch.full((20, 1), -1)
    calls, search = taken(monkeypatch), ExactSearch(Vectors([Piece(0, table.numpy())], "a-table"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        found, _ = search.search(table[:20], 9, none)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert calls == [True] and found.tolist() == best(table, table[:20], 9, none)[0]
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
