"""Freed memory is there for the next step: it is not cleared by the system again."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from training.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    parts = [torch.ones(1 << 20) for _ in range(10)]  # 4 MiB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is set")
def test_a_step_takes_no_page_anew():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, check=True).stdout)
        for how in ("default", "kept")
    }
    # 20 steps of 40 MiB are 205,000 pages of 4 KiB, or 400 of 2 MiB.
    assert faults["default"] > 200
    assert faults["kept"] < faults["default"] / 10
