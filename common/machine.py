"""Free memory of host and device, and free disk space, None where they cannot be read; and cores."""

import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CGROUPS = (
    # The controller in /proc/self/cgroup, its folder, and its files of limit and usage.
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that processes may still allocate: the least of the host's and of every control group's.

    The page cache counts as free. `root`: where /proc and /sys are, for tests.
    """
    free = [kilobytes * 1024 for word, kilobytes in _fields(root / "proc/meminfo").items() if word == "MemAvailable:"]
    return min(free + _free_in_groups(root), default=None)


def process_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process may still allocate by its own limits (ulimit -v and -d), None without one."""
    used = _fields(root / "proc/self/status")
    rooms = []
    for limit, word in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY and word in used:
            rooms.append(max(most - used[word] * 1024, 0))
    return min(rooms, default=None)


def device_memory(device: "torch.device") -> int | None:
    """Returns the bytes free on a GPU; None for the CPU, whose memory is the host's."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def usable_cores(root: Path = Path("/")) -> int:
    """Returns how many cores this process may use: those that it may run on, and no more than any control group allows.

    `root`: where /proc and /sys are, for tests.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for controller, folder in (("", "sys/fs/cgroup"), ("cpu", "sys/fs/cgroup/cpu")):
        for place in _groups(root, controller, folder):
            quota, period = [*_text(place / "cpu.max").split(), "", ""][:2]
            if controller:
                quota, period = (_text(place / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
            if quota.isdecimal() and period.isdecimal():  # not "max", nor -1
                cores = min(cores, max(int(quota) // max(int(period), 1), 1))
    return cores


def free_disk(path: Path) -> int | None:
    """Returns the bytes free in the file system of `path`, or of its nearest parent that exists."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def _free_in_groups(root: Path) -> list[int]:
    """For every group with a limit. A container may see its own folders at another path, or its own as the root."""
    rooms = []
    for controller, folder, limit_file, usage_file in _CGROUPS:
        for place in _groups(root, controller, folder):
            limit, usage = _text(place / limit_file).strip(), _text(place / usage_file).strip()
            if limit.isdecimal() and usage.isdecimal():  # not "max"
                stat = _fields(place / "memory.stat")
                # Version 1 has the sum over the inner groups under other names.
                cached = sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("active_file", "inactive_file"))
                rooms.append(max(int(limit) - int(usage) + cached, 0))
    return rooms


def _groups(root: Path, controller: str, folder: str) -> Iterator[Path]:
    """The folders of this process's control group of a controller, and of all groups around it, innermost first."""
    top = root / folder
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = top / path.lstrip("/")
            for place in (group, *group.parents):
                yield place
                if place == top:
                    break


def _fields(file: Path) -> dict[str, int]:
    """The first number of each line, by its first word."""
    words = [line.split() for line in _text(file).splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _text(file: Path) -> str:
    """Empty for a missing file."""
    try:
        return file.read_text()
    except OSError:
        return ""


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of returning it to the system; without glibc, does nothing.

    A training step frees and allocates some 35 MB of activations. Returned pages are cleared by the kernel when they
    are touched again: 9,000 page faults, a fifth of the step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_TOP_PAD, 64 << 20)


if __name__ == "__main__":
    # Threads of each of so many ranks, for components/torchrun.bash.
    print(max(usable_cores() // int(sys.argv[1]), 1))
