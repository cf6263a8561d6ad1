"""Memory that ran out is recognised, and told in words."""

import errno

import numpy as np
import pyarrow as pa
import pytest
import torch

from skipwise.common import out_of_memory
from skipwise.common.out_of_memory import is_out_of_memory, shortage

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
