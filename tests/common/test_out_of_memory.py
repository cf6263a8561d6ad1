"""Memory that ran out is recognised, and told in words."""

import errno
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from skipwise.common import out_of_memory
from skipwise.common.errors import UserError
from skipwise.common.out_of_memory import is_out_of_memory, shortage
from skipwise.datapipes.prepare import PrepareConfig, plain_errors, prepare

HUGE = 1 << 55
SHORT = {
    "numpy": lambda: np.empty(HUGE, np.int8),
    "torch": lambda: torch.empty(HUGE, dtype=torch.int8),
    "arrow": lambda: pa.allocate_buffer(HUGE),
    "python": lambda: bytearray(HUGE),
}


@pytest.mark.parametrize("library", SHORT)
def test_what_libraries_raise(library: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Exception) as raised:
        SHORT[library]()
    assert is_out_of_memory(raised.value)
    monkeypatch.setattr(out_of_memory, "process_memory", lambda: 3 * 10**9)
    monkeypatch.setattr(out_of_memory, "available_memory", lambda: 2 * 10**9)
    assert shortage(raised.value).endswith(
        "; 2.0 GB are free on the machine or in its control group; the limit of this process (ulimit -v or -d), which "
        "may be raised, leaves 3.0 GB"
    )


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_no_other_error_is_one(error: Exception, is_one: bool):
    assert is_out_of_memory(error) == is_one


def test_duckdb_says_whose_limit_it_was(monkeypatch: pytest.MonkeyPatch):
    config = PrepareConfig(input=(Path("x"),), output=Path("y"), memory=1)
    monkeypatch.setattr(plain_errors, "available_memory", lambda: 3 * 10**8)
    own = plain_errors._out_of_memory(config, "failed to allocate data of size 16.0 MiB (1.0 GiB/1.0 GiB used)")
    assert own == "--memory 1 (GiB) does not suffice for this log: raise it"
    systems = plain_errors._out_of_memory(config, "Failed to allocate block of 262144 bytes (bad allocation)")
    assert "of which 0.3 GB are free now: lower --memory 1 (GiB)" in systems


@pytest.mark.parametrize(
    ("memory", "room", "words"), [(2, 4.3, ""), (2, 4.2, "lower --memory 2 (GiB), or raise"), (1, 2.4, "needed: raise")]
)
def test_a_limit_that_is_too_low_is_said_before(memory: float, room: float, words: str, tmp_path, monkeypatch):
    monkeypatch.setattr(plain_errors, "process_memory", lambda: int(room * 1e9) + 60_000_000)
    with pytest.raises(UserError, match=r"leaves .* GB that are needed" if words else "no.csv") as refused:
        prepare(PrepareConfig(input=(tmp_path / "no.csv",), output=tmp_path / "out", memory=memory))
    assert words in str(refused.value)
