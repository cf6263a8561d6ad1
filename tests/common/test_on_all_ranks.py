"""Where a function fails on one rank, all ranks fail, with the same sentence."""

import errno
from typing import Any

import pytest

from skipwise.common.distributed import on_all_ranks, on_rank_0, rank
from skipwise.common.errors import UserError
from tests.ranks import run_on_ranks


def _fail(where: int, error: Exception | None) -> int:
    if error and rank() == where:
        raise error
    return rank()


def _full(reason: str) -> str:
    return f"the disk is full ({reason})"


def _outcomes(where: int, error: Exception | None) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for call in (on_all_ranks, on_rank_0):
        try:
            found.append(("result", call(lambda: _fail(where, error), _full)))
        except Exception as caught:
            found.append((type(caught), str(caught)))
    return found


@pytest.mark.ranks
def test_all_ranks_return_or_fail_alike(tmp_path):
    assert run_on_ranks(tmp_path, 2, _outcomes, 0, None) == [
        [("result", 0), ("result", 0)],
        [("result", 1), ("result", 0)],
    ]
    sentence = (UserError, "no such run")
    assert run_on_ranks(tmp_path, 2, _outcomes, 0, UserError("no such run")) == [[sentence] * 2] * 2
    assert run_on_ranks(tmp_path, 2, _outcomes, 1, UserError("no such run")) == [
        [sentence, ("result", 0)],
        [sentence, ("result", 0)],
    ]
    full = (UserError, "the disk is full (No space left on device)")
    assert run_on_ranks(tmp_path, 2, _outcomes, 0, OSError(errno.ENOSPC, "")) == [[full] * 2] * 2
    bug, others = (KeyError, "'rows'"), (UserError, "rank 0 failed (KeyError: 'rows')")
    assert run_on_ranks(tmp_path, 2, _outcomes, 0, KeyError("rows")) == [[bug] * 2, [others] * 2]


def test_one_process_needs_no_group():
    assert on_all_ranks(lambda: 3) == on_rank_0(lambda: 3) == 3
    for call in (on_all_ranks, on_rank_0):
        with pytest.raises(UserError, match="the disk is full .No space left on device"):
            call(lambda: _fail(0, OSError(errno.ENOSPC, "")), _full)
        with pytest.raises(OSError):
            call(lambda: _fail(0, OSError(errno.ENOSPC, "")))
