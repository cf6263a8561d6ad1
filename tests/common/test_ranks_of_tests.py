"""The tests' own ranks: each begins clean, and one that raises, dies or hangs ends the test and is named."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import rank
from tests import ranks
from tests.ranks import run_on_ranks

pytestmark = pytest.mark.ranks
LEFT_BEHIND = []


def what_came_along() -> tuple[int, list]:
    return threading.active_count(), LEFT_BEHIND


def test_ranks_have_none_of_the_threads_and_changes_of_the_tests(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(f"{__name__}.LEFT_BEHIND", ["by a test"])
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    try:
        assert run_on_ranks(tmp_path, 2, what_came_along) == [(1, [])] * 2
    finally:
        done.set()


def sum_of(values_N: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(values_N)
    return values_N + rank()


def test_results_come_in_rank_order(tmp_path: Path):
    """Of 200,000 numbers, more than a pipe holds."""
    for number, result in enumerate(run_on_ranks(tmp_path, 3, sum_of, torch.ones(200_000))):
        assert torch.equal(result, torch.full((200_000,), 3.0 + number))


def raise_on_one() -> None:
    if rank() == 1:
        raise ValueError("a bad day")


def die_on_one() -> None:
    if rank() == 1:
        os._exit(3)


def hang_on_one() -> None:
    if rank() == 1:
        time.sleep(1000)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raise_on_one, "^rank 1: (?s:.*)ValueError: a bad day"),
        (die_on_one, "rank 1: ended with exit code 3 and without a word"),
        (hang_on_one, "rank 1: hangs(?s:.*) in hang_on_one"),
    ],
)
def test_a_rank_that_fails_ends_the_test(function, message: str, monkeypatch, tmp_path: Path):
    run_on_ranks(tmp_path, 2, what_came_along)  # the fork server's start is not to count
    monkeypatch.setattr(ranks, "LIMIT_S", 4)
    monkeypatch.setattr(ranks, "GRACE_S", 2)
    before = time.monotonic()
    with pytest.raises(AssertionError, match=message):
        run_on_ranks(tmp_path, 2, function)
    assert time.monotonic() - before < 15
