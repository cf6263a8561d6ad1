"""Several processes that answer on one port: started, watched and ended by a process that loads no torch."""

import ctypes
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from skipwise.common.errors import UserError
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.listener import bound

_MOST_WAIT_S = 60.0
_PR_SET_PDEATHSIG = 1
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True)
class Worker:
    """What one of them is given."""

    listener: socket.socket
    """The bound socket that all of them accept from."""
    folder: Path
    """Of files that they share, for as long as the service runs."""
    is_first: bool
    """Whether it is the one that was started first, and speaks for all."""
    pipe: int

    def ready(self) -> None:
        """Says that it answers now."""
        os.write(self.pipe, b"1")
        os.close(self.pipe)


def fork_workers(config: ServeConfig) -> Worker:
    """Returns in each worker. The calling process ends with them: with 0 after SIGTERM or SIGINT, with the code of the
    first one where that ends before it answers, and with 1 where none is left.

    Raises `UserError` where it cannot listen, or no folder can be made.
    """
    listener = bound(config)
    try:
        folder = Path(tempfile.mkdtemp(prefix="skipwise-serve-"))
    except OSError as error:
        raise UserError(f"no folder can be made in {tempfile.gettempdir()} ({error.strerror}): set TMPDIR") from error
    metrics = folder / "metrics"
    metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # read when prometheus_client is loaded
    supervisor = _Supervisor(config.workers, listener, folder)
    try:
        worker = supervisor.run()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if worker is None:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit(supervisor.code)
    return worker


class _Supervisor:
    def __init__(self, number: int, listener: socket.socket, folder: Path):
        self.code = 0
        self._number, self._listener, self._folder = number, listener, folder
        self._alive: dict[int, int] = {}
        """By process, the end of a pipe on which it says that it answers; -1 once it has."""
        self._answered = self._ending = False
        self._wait_s, self._next_start = 1.0, 0.0

    def run(self) -> Worker | None:
        """A worker in each of them, None in this process at the end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        while True:
            wanted = 0 if self._ending else self._number if self._answered else 1
            if len(self._alive) < wanted and time.monotonic() >= self._next_start:
                if worker := self._start():
                    return worker
                continue
            info = signal.sigtimedwait(_HANDLED, 0.1)
            if info and info.si_signo != signal.SIGCHLD:
                self._ending |= info.si_signo != signal.SIGHUP
                for process in self._alive:
                    os.kill(process, signal.SIGHUP if info.si_signo == signal.SIGHUP else signal.SIGTERM)
            self._hear()
            self._reap()
            if not self._alive and (self._ending or self.code):
                return None

    def _start(self) -> Worker | None:
        said, says = os.pipe()
        is_first = not self._answered
        sys.stdout.flush()
        process = os.fork()
        if process:
            os.close(says)
            self._alive[process] = said
            return None
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        for pipe in (said, *(pipe for pipe in self._alive.values() if pipe >= 0)):
            os.close(pipe)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches all of them: the first process decides
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        return Worker(self._listener, self._folder, is_first, says)

    def _hear(self) -> None:
        for process, pipe in [(process, pipe) for process, pipe in self._alive.items() if pipe >= 0]:
            if select.select([pipe], [], [], 0)[0] and os.read(pipe, 1):
                os.close(pipe)
                self._alive[process], self._answered, self._wait_s = -1, True, 1.0

    def _reap(self) -> None:
        for process in list(self._alive):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            if (pipe := self._alive.pop(process)) >= 0:
                os.close(pipe)
            self._forget(process)
            code = os.waitstatus_to_exitcode(status)
            if self._ending:
                self.code = self.code or max(code, 0)
            elif not self._answered or not self._alive:
                self.code, self._ending = (code if code > 0 else 1), True
                if self._answered:
                    print(f"skipwise: no worker is left (the last ended with {code})", file=sys.stderr, flush=True)
            else:
                said = f"skipwise: worker process {process} ended with {code}: another one takes its place"
                print(said, file=sys.stderr, flush=True)
                self._next_start = time.monotonic() + self._wait_s
                self._wait_s = min(2 * self._wait_s, _MOST_WAIT_S)

    def _forget(self, process: int) -> None:
        """Its gauges, of what waits in it for example; what it has counted stays."""
        for file in (self._folder / "metrics").iterdir():
            if file.name.startswith("gauge_live") and file.stem.endswith(f"_{process}"):
                file.unlink()
