"""Locks on places that one job at a time may write, between machines that share nothing but a file system.

A lock is a symbolic link whose text says who owns it; nothing follows it. Making one fails where there is one, in one
step with its text, on network file systems too, and needs no lock service of theirs.

An owner that was killed leaves its lock. Whoever finds it, and its owner gone, makes a claim: a link named by the lock
and by the owner's token, so that an owner has one successor at most. It becomes the lock by one rename. A claim whose
owner is gone is claimed in the same way.
"""

import errno
import glob
import os
import secrets
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from skipwise.common import failure
from skipwise.common.errors import UserError
from skipwise.common.schema import Count, StrictModel, matching

LOCK = ".lock"
"""The name of a lock inside the directory that it is on."""
BEAT_S = 10.0
"""How often an owner shows that it lives, by the time of its lock."""
GONE_S = 120.0
"""After how long without that an owner on another machine counts as gone. Network file systems may show a time that is
60 s old."""
_ATTEMPTS = 1000
"""Each fails where another process has changed the lock in its course."""


class InUse(UserError):
    """Another job holds the lock."""


class Owner(StrictModel):
    """Who holds a lock: its text, as JSON."""

    host: Annotated[str, Field(max_length=100)]
    kernel: Annotated[str, Field(max_length=100)]
    """Boot and PID namespace: where both are equal, so are the processes that numbers stand for."""
    process: Annotated[int, Field(ge=1, lt=1 << 31)]
    started: Count
    """When the process began, in the kernel's ticks: another one may get its number."""
    since: Annotated[int, Field(ge=0, lt=1 << 33)]
    """When it took the lock, in seconds since 1970."""
    job: Annotated[str, Field(max_length=200)]
    """The scheduler's id of the job, or torchrun's, or both; empty where there is none."""
    attempt: list[Count]
    """How often these have started the job again."""
    token: Annotated[str, matching("[0-9a-f]{16}", "16 hexadecimal digits")]

    @classmethod
    def new(cls) -> "Owner":
        """This process, as the owner of one more lock."""
        try:
            kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
        except OSError:
            kernel = "unknown"
        jobs = [os.environ.get(name, "") for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "TORCHELASTIC_RUN_ID")]
        jobs = [job for job in jobs if job not in ("", "none")]  # torchrun's word for an id that was not given
        counts = [os.environ.get(name, "") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")]
        return cls(
            host=socket.gethostname()[:100],
            kernel=kernel[:100],
            process=os.getpid(),
            started=_state(os.getpid())[1],
            since=int(time.time()),
            job=" ".join(jobs)[:200],
            attempt=[int(count) if count.isdecimal() else 0 for count in counts],
            token=secrets.token_hex(8),
        )

    def is_gone(self, silent_s: float, finder: "Owner") -> bool:
        """Whether it has ended, as `finder` can tell; `silent_s`: since it last showed that it lives."""
        if self.is_visible(finder):
            return not self._runs()
        if self.job and self.job == finder.job and self.attempt < finder.attempt:
            return True  # a launcher ends all processes of an attempt before the next one
        return silent_s > GONE_S

    def is_visible(self, finder: "Owner") -> bool:
        """Whether its process number stands for the same process in `finder`."""
        return (self.host, self.kernel) == (finder.host, finder.kernel) and self.kernel != "unknown"

    def _runs(self) -> bool:
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        state, started = _state(self.process)
        return state not in ("Z", "X") and started in (0, self.started)


def _state(process: int) -> tuple[str, int]:
    """A process's state, as one letter, and when it began; nothing and 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[19])


def lock_beside(output: Path) -> Path:
    """The lock on an output that is replaced as a whole, so that the lock cannot lie in it."""
    whole = Path(os.path.realpath(output))
    return whole.with_name(f".{whole.name[:40]}-{zlib.crc32(os.fsencode(whole.name)):08x}{LOCK}")


@contextmanager
def locked(lock: Path, place: Path, otherwise: str = "") -> Iterator[None]:
    """Holds `lock`, which is on `place`, for the time of the block; its folder must exist.

    Raises a `UserError` that names the owner where another job holds it (`otherwise`: what to do besides waiting, as in
    "choose another --output"), and `OSError` where the file system refuses it. A process that finds its lock gone or
    another's, because it was silent for too long or the lock was removed, ends with code 1.
    """
    me, ended = Owner.new(), threading.Event()
    text = me.model_dump_json()
    try:
        if not any(_take(lock, me, text, place, otherwise) for _ in range(_ATTEMPTS)):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(lock))
        threading.Thread(target=_show_life, args=(lock, text, place, ended), name="lock", daemon=True).start()
        yield
    finally:
        ended.set()
        with suppress(OSError):
            if os.readlink(lock) == text:
                os.unlink(lock)


@contextmanager
def locked_for_all_ranks(place: Path, flag: str = "") -> Iterator[None]:
    """Rank 0 holds the lock inside the directory `place`, which is made; all ranks raise the same `UserError`.

    `flag` names another directory.
    """
    from skipwise.common.distributed import on_all_ranks, rank  # here, so that other commands do not import torch

    other = f"choose another {flag}" if flag else ""
    with ExitStack() as held:

        def hold() -> None:
            if rank() == 0:
                place.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(place / LOCK, place, other))

        on_all_ranks(hold, lambda why: f"{place} cannot be written ({why}): {other or 'use a copy of it'}")
        yield


def _take(lock: Path, me: Owner, text: str, place: Path, otherwise: str) -> bool:
    """One attempt at the lock; False where another process has changed it meanwhile."""
    link, passed = lock, list[tuple[Path, str]]()
    try:
        while (found := _make(link, text)) != text:
            owner = read_owner(link, found)
            silent_s = _silent_s(link, lock.with_name(f"{lock.name}.{me.token}"))
            if not owner.is_gone(silent_s, me):
                raise InUse(refusal(owner, me, silent_s, place, otherwise))
            passed.append((link, found))
            link = lock.with_name(f"{lock.name}.{owner.token}")
        if passed:
            if any(os.readlink(other) != before for other, before in passed):
                return False
            os.replace(link, lock)
        # Claims that are left belong to the dead, or to processes that will find this lock.
        for claim in lock.parent.glob(f"{glob.escape(lock.name)}.{'?' * len(me.token)}"):
            claim.unlink(missing_ok=True)
        os.utime(lock, follow_symlinks=False)
        return os.readlink(lock) == text
    except FileNotFoundError:
        return False
    finally:
        with suppress(OSError):
            if link != lock and os.readlink(link) == text:
                os.unlink(link)


def _make(link: Path, text: str) -> str:
    """Makes a link where there is none; returns the text of the one that is there then."""
    with suppress(FileExistsError):
        try:
            os.symlink(text, link)
        except FileNotFoundError:  # some file systems say so of directories of their own
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(link)) from None
        return text
    try:
        return os.readlink(link)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return ""  # a file of another kind


def read_owner(link: object, text: str) -> Owner:
    """Returns whom the text of a lock names; raises `UserError` for anything else."""
    try:
        return Owner.model_validate_json(text)
    except ValidationError:
        raise UserError(
            f"{link} is not a lock that this version writes: remove it, once no other job is at work there"
        ) from None


def _silent_s(link: Path, now: Path) -> float:
    """Seconds since the owner of `link` last showed that it lives, by the clock of the file system: `now` is made."""
    os.symlink("now", now)
    try:
        return max(os.lstat(now).st_mtime - os.lstat(link).st_mtime, 0.0)
    finally:
        now.unlink(missing_ok=True)


def refusal(owner: Owner, me: Owner, silent_s: float, place: object, otherwise: str) -> str:
    """Returns the sentence for a place that another job has."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(owner.since))
    job = f", job {owner.job}" if owner.job else ""
    seen = ""
    if not owner.is_visible(me):
        seen = f", seen alive {silent_s:.0f} s ago (it counts as gone after {GONE_S:.0f} s)"
    return (
        f"{place} is in use by process {owner.process} on {owner.host}{job}, since {since}{seen}: wait until that has "
        f"ended, or {otherwise or 'end it'}"
    )


def _show_life(lock: Path, text: str, place: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        try:
            if os.readlink(lock) == text:
                os.utime(lock, follow_symlinks=False)
                continue
        except FileNotFoundError:
            pass
        except OSError:
            continue  # of a network file system that does not answer now
        if not ended.is_set():
            words = f"skipwise: {lock} is no longer this process's, so that another job may write {place}: ends"
            failure.record(words)
            print(words, file=sys.stderr, flush=True)
            os._exit(1)
