"""What this machine has left: memory of host and device, and room on a disk. None where it cannot be read."""

import ctypes
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CGROUPS = (
    # How lines of /proc/self/cgroup name the controller, where its folders are, and its files: limit, usage.
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that processes may still take on this host: what is free in it and in every control group around them.

    The cache of files counts as free. `root`: where /proc and /sys are, for tests.
    """
    rooms = [_free_in_host(root), *_free_in_groups(root)]
    return min((room for room in rooms if room is not None), default=None)


def device_memory(device: "torch.device") -> int | None:
    """Bytes free on a GPU; None for the CPU, whose memory is the host's."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def free_disk(path: Path) -> int | None:
    """Bytes free in the file system that would hold `path`: that of its nearest parent that exists."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def _free_in_host(root: Path) -> int | None:
    kilobytes = _fields(root / "proc/meminfo").get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _free_in_groups(root: Path) -> list[int]:
    """Of every group that has a limit. A container may see its own folders at another place, or its own as the top."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller, folder, limit_file, usage_file in _CGROUPS:
            if controller not in controllers.split(","):
                continue
            top = root / folder
            group = top / path.lstrip("/")
            for place in (group, *group.parents):
                limit, usage = _number(place / limit_file), _number(place / usage_file)
                if limit is not None and usage is not None:
                    stat = _fields(place / "memory.stat")
                    # Version 1 keeps the sum over the groups within under names of its own.
                    cached = sum(
                        stat.get(f"total_{name}", stat.get(name, 0)) for name in ("active_file", "inactive_file")
                    )
                    rooms.append(max(limit - usage + cached, 0))
                if place == top:
                    break
    return rooms


def _fields(file: Path) -> dict[str, int]:
    """The first number of each line, by its first word."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _number(file: Path) -> int | None:
    """None for a missing file and for "max", which is no limit."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the next step instead of giving it back to the system; elsewhere, nothing.

    A step frees and takes some 35 MB of activations anew; every page of it was handed back, and cleared by the kernel
    when it was touched again: 9,000 faults and a fifth of the step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_TOP_PAD, 64 << 20)
