"""Freed memory stays with the process for the next step: the C library's own account says so."""

import ctypes
import json
import subprocess
import sys

import pytest

PARTS, PART = 10, 30 << 20
STEP = f"""
import ctypes, json, sys
import torch
from skipwise.common.machine import keep_freed_memory

class Account(ctypes.Structure):  # struct mallinfo2, see mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Account
if sys.argv[1] == "kept":
    keep_freed_memory()
before = mallinfo2().hblks
parts = [torch.empty({PART}, dtype=torch.uint8) for _ in range({PARTS})]
mapped = mallinfo2().hblks - before
del parts
print(json.dumps([mapped, mallinfo2().fordblks]))
"""


def account(how: str) -> list[int]:
    return json.loads(subprocess.run([sys.executable, "-c", STEP, how], capture_output=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the account is glibc's, from 2.33")
def test_a_step_leaves_its_memory_for_the_next():
    mapped, held = account("kept")
    assert mapped == 0
    assert held >= PARTS * PART
    # Left alone, each part is a mapping of its own, which goes back to the system when it is freed.
    mapped, held = account("default")
    assert mapped == PARTS
    assert held < PARTS * PART / 2
