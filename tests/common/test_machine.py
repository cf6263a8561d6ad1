"""What is left of made-up machines and of this one."""

import os
import resource
from pathlib import Path

import pytest

from skipwise.common.machine import available_memory, free_disk, process_memory, usable_cores


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


HOST = {"proc/meminfo": "MemTotal:       9000 kB\nMemAvailable:   8000 kB\n"}
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
    "files, free",
    [
        ({}, None),
        (HOST, 8000 * 1024),
        (HOST | {"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n"}, 8000 * 1024),
        (
            {
                "proc/self/cgroup": "0::/job/rank\n",
                f"{V2}/job/rank/memory.max": "max\n",
                f"{V2}/job/rank/memory.current": "700\n",
                f"{V2}/job/memory.max": "1000\n",
                f"{V2}/job/memory.current": "700\n",
                f"{V2}/job/memory.stat": "anon 400\nactive_file 50\ninactive_file 200\n",
            }
            | HOST,
            1000 - 700 + 250,
        ),
        (
            {
                # The container sees its own group as the top.
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n3:memory:/elsewhere/job\n0::/\n",
                f"{V1}/memory.limit_in_bytes": "1000\n",
                f"{V1}/memory.usage_in_bytes": "900\n",
                f"{V1}/memory.stat": "active_file 1\ninactive_file 1\ntotal_active_file 30\ntotal_inactive_file 20\n",
            }
            | HOST,
            150,
        ),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "5", f"{V2}/memory.current": "9"} | HOST, 0),
    ],
)
def test_what_a_machine_has_left(tmp_path: Path, files: dict[str, str], free: int | None):
    assert available_memory(machine(tmp_path, files)) == free


ONE = {"proc/self/cgroup": "0::/job\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        (ONE | {f"{V2}/cpu.max": "max 100000\n", f"{V2}/job/cpu.max": "450000 100000\n"}, 4),
        (ONE | {f"{V2}/cpu.max": "50000 100000\n", f"{V2}/job/cpu.max": "max 100000\n"}, 1),
        (ONE | {f"{V2}/cpu.max": "6400000 100000\n"}, 16),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n0::/\n",
                f"{V2}/cpu/cpu.cfs_quota_us": "600000\n",
                f"{V2}/cpu/cpu.cfs_period_us": "100000\n",
                f"{V2}/cpu/x/cpu.cfs_quota_us": "-1\n",
                f"{V2}/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
    ],
)
def test_cores_that_control_groups_allow(tmp_path: Path, files: dict[str, str], cores: int, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16))
    assert usable_cores(machine(tmp_path, files)) == cores


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="needs /proc")
def test_this_machine_is_read():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() <= total


def test_a_disk_is_asked_through_the_nearest_parent(tmp_path: Path):
    assert free_disk(tmp_path / "absent" / "run") > 0
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("limits", "free"),
    [
        ({}, None),
        ({"AS": 5000 * 1024}, 2000 * 1024),
        ({"DATA": 1500 * 1024, "AS": 5000 * 1024}, 500 * 1024),
        ({"DATA": 1}, 0),
    ],
)
def test_limits_of_a_process(limits: dict[str, int], free: int | None, tmp_path: Path, monkeypatch):
    known = {getattr(resource, f"RLIMIT_{name}"): most for name, most in limits.items()}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (known.get(limit, resource.RLIM_INFINITY), 0))
    root = machine(tmp_path, {"proc/self/status": "Name:   python\nVmSize:     3000 kB\nVmData:     1000 kB\n"})
    assert process_memory(root) == free
