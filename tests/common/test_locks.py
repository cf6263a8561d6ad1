"""Locks: never held by two, taken over from the dead at once, and from other machines when their owner is silent."""

import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from skipwise.common import locks
from skipwise.common.errors import UserError
from skipwise.common.locks import GONE_S, Owner, lock_beside, locked

OTHER_MACHINE = {"host": "node-7", "kernel": "another boot"}


def in_child(function: Callable[[], object]) -> int:
    """Runs a function in a fork of this process, which is not reaped; returns its process number."""
    child = os.fork()
    if child:
        return child
    try:
        function()
        os._exit(0)
    except BaseException as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(9)


def left_by(lock: Path, **changes: object) -> Owner:
    """A lock of this process, but for `changes`."""
    owner = Owner.new().model_copy(update=changes)
    os.symlink(owner.model_dump_json(), lock)
    return owner


def silent_for(lock: Path, seconds: float) -> None:
    """Sets the last sign of life, by the clock of the file system, which is not that of this process."""
    (lock.parent / "now").touch()
    now = (lock.parent / "now").stat().st_mtime
    os.utime(lock, (now - seconds, now - seconds), follow_symlinks=False)
    (lock.parent / "now").unlink()


def test_a_living_owner_is_named_and_its_end_releases(tmp_path):
    lock = tmp_path / ".lock"
    began = time.time()
    with locked(lock, Path("runs/mine")), pytest.raises(UserError) as caught:
        with locked(lock, Path("runs/mine"), "choose another --run-dir"):
            pass
    said = re.fullmatch(
        rf"runs/mine is in use by process {os.getpid()} on {re.escape(os.uname().nodename)}, since (.*) UTC: wait "
        "until that has ended, or choose another --run-dir",
        str(caught.value),
    )
    since = time.mktime(time.strptime(said[1], "%Y-%m-%d %H:%M:%S")) - time.timezone
    assert began - 1 <= since <= time.time()
    with pytest.raises(KeyError), locked(lock, tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_of_this_machine_is_followed_at_once(tmp_path):
    """A zombie, which nobody has waited for yet, is dead too."""
    lock = tmp_path / ".lock"

    def die() -> None:
        with locked(lock, tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    child = in_child(die)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert Owner.model_validate_json(os.readlink(lock)).process == child
    with locked(lock, tmp_path):
        assert Owner.model_validate_json(os.readlink(lock)).process == os.getpid()
    os.waitpid(child, 0)
    assert list(tmp_path.iterdir()) == []


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path):
    lock = tmp_path / ".lock"
    left_by(lock, started=Owner.new().started - 1)
    with locked(lock, tmp_path):
        pass
    left_by(lock)
    with pytest.raises(UserError, match="is in use"), locked(lock, tmp_path):
        pass


def test_a_process_of_which_the_system_tells_nothing_counts_as_living(tmp_path, monkeypatch):
    """Of other users' processes some systems show the number alone."""
    lock = tmp_path / ".lock"
    left_by(lock, process=os.getppid(), started=1)
    me = Owner.new()
    monkeypatch.setattr(locks.Owner, "new", lambda: me)
    monkeypatch.setattr(locks, "_state", lambda process: ("", 0))
    with pytest.raises(UserError, match="is in use"), locked(lock, tmp_path):
        pass

    def refuse(process: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(UserError, match="is in use"), locked(lock, tmp_path):
        pass


@pytest.mark.parametrize("machine", [OTHER_MACHINE, {"kernel": "another container"}], ids=["host", "container"])
def test_an_owner_on_another_machine_is_judged_by_its_signs_of_life(machine, tmp_path):
    """Its process number stands for nothing here, whether a process has it or not."""
    for process in (os.getpid(), 2**22 + 1):
        lock = tmp_path / ".lock"
        left_by(lock, process=process, **machine)
        silent_for(lock, GONE_S - 10)
        with pytest.raises(UserError) as caught, locked(lock, tmp_path):
            pass
        assert re.search(r"seen alive 11\d s ago \(it counts as gone after 120 s\): wait", str(caught.value))
        silent_for(lock, GONE_S + 10)
        with locked(lock, tmp_path):
            assert not Owner.model_validate_json(os.readlink(lock)).is_gone(0, Owner.new())
        assert list(tmp_path.iterdir()) == []


def test_a_restart_by_the_launcher_does_not_wait(tmp_path, monkeypatch):
    """Nor does a job that its scheduler has put into the queue again. Two steps of one job are two jobs."""
    lock = tmp_path / ".lock"
    for job, count, name, found in (
        ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "abc", "abc"),
        ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "4711", "4711"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(job, name)
            left_by(lock, **OTHER_MACHINE)
            with pytest.raises(UserError, match=f"on node-7, job {found}, since"), locked(lock, tmp_path):
                pass
            environment.setenv(count, "1")
            with locked(lock, tmp_path):
                pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's word where it was given none
    left_by(lock, **OTHER_MACHINE)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(UserError, match="on node-7, since"), locked(lock, tmp_path):
        pass


def test_an_owner_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    lock = tmp_path / ".lock"
    with locked(lock, tmp_path):
        os.utime(lock, (0, 0), follow_symlinks=False)
        deadline = time.monotonic() + 10
        while not os.lstat(lock).st_mtime and time.monotonic() < deadline:
            time.sleep(0.01)
        assert os.lstat(lock).st_mtime


@pytest.mark.parametrize("taken_over", [True, False])
def test_a_process_that_has_lost_its_lock_ends(taken_over, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    lock = tmp_path / ".lock"

    def work() -> None:
        with locked(lock, Path("runs/mine")):
            (tmp_path / "inside").touch()
            time.sleep(20)

    child = in_child(work)
    while not (tmp_path / "inside").exists():
        time.sleep(0.01)
    if taken_over:
        os.symlink("another's", tmp_path / "new")
        os.replace(tmp_path / "new", lock)
    else:
        lock.unlink()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert capfd.readouterr().err.startswith(f"skipwise: {lock} is no longer this process's, so that another job may")
    assert lock.is_symlink() == taken_over


@pytest.mark.parametrize("content", ["", "not JSON", '{"host": "a"}', None])
def test_what_is_no_lock_is_left_alone(content, tmp_path):
    lock = tmp_path / ".lock"
    if content is None or not content:
        lock.write_text("")
    else:
        os.symlink(content, lock)
    with pytest.raises(UserError, match=r"\.lock is not a lock that this version writes: remove it, once no other"):
        with locked(lock, tmp_path):
            pass
    assert os.path.lexists(lock)


def test_a_folder_that_takes_no_link_is_an_error_of_the_system(tmp_path):
    for folder in (tmp_path / "missing", Path("/proc/self/fd")):
        with pytest.raises(NotADirectoryError), locked(folder / ".lock", tmp_path):
            pass


def test_a_lock_that_never_stays_is_given_up(tmp_path, monkeypatch):
    """On a file system that knows nothing of what it holds, say."""

    def deny(path: Path, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(os, "utime", deny)
    with pytest.raises(OSError, match="busy"), locked(tmp_path / ".lock", tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_output_has_one_lock_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path / "a")
    one = lock_beside(tmp_path / "a")
    assert one.parent == tmp_path and one.name.startswith(".a-") and one.name.endswith(".lock")
    assert {lock_beside(path) for path in (Path(), Path("../a"), tmp_path / "link", tmp_path / "x" / ".." / "a")} == {
        one
    }
    long = "é" * 100
    assert lock_beside(tmp_path / f"{long}1") != lock_beside(tmp_path / f"{long}2")
    with locked(lock_beside(tmp_path / (long + "1")), tmp_path):
        pass


class Killed(BaseException):
    """An actor was killed."""


class Actors:
    """Processes that take one lock, one file operation at a time, in an order that the test chooses.

    Each is a thread that waits before each of its operations. A killed one does none any more.
    """

    def __init__(self, lock: Path, patch: pytest.MonkeyPatch):
        self.lock, self.owners = lock, {}
        self.dead: set[str] = set()
        self.gone: set[str] = set()
        """Who counts as gone: the dead, and one that lives on."""
        self.holders: list[str] = []
        self.most_holders = self.times_held = 0
        self._here = threading.local()
        self._turn: dict[str, threading.Semaphore] = {}
        self._waits: dict[str, threading.Semaphore] = {}
        self.running: dict[str, bool] = {}
        patch.setattr(locks, "Owner", _Told(self))
        patch.setattr(locks.Owner.of_class, "is_gone", lambda owner, silent_s, me: owner.token in self.gone)
        patch.setattr(locks, "_silent_s", lambda link, now: 0.0)
        patch.setattr(locks.threading, "Thread", _NoThread)
        for module, name in ((os, "symlink"), (os, "readlink"), (os, "replace"), (os, "unlink"), (os, "utime")):
            patch.setattr(module, name, self._stepping(getattr(module, name)))
        patch.setattr(Path, "glob", self._stepping(Path.glob))

    def _stepping(self, function: Callable) -> Callable:
        def step(*arguments, **options):
            if token := getattr(self._here, "token", None):
                self._waits[token].release()
                self._turn[token].acquire()
                if token in self.dead:
                    raise Killed
            return function(*arguments, **options)

        return step

    def token(self) -> str:
        return self._here.token

    def start(self, token: str) -> None:
        self._turn[token], self._waits[token] = threading.Semaphore(0), threading.Semaphore(0)
        self.running[token] = True
        self.owners[token] = REAL_THREAD(target=self._act, args=(token,), daemon=True)
        self.owners[token].start()
        self._waits[token].acquire()

    def _act(self, token: str) -> None:
        self._here.token = token
        try:
            with locked(self.lock, self.lock.parent):
                self.holders.append(token)
                self.times_held += 1
                self.most_holders = max(self.most_holders, len({*self.holders} - self.gone))
                with suppress(FileNotFoundError):
                    os.readlink(self.lock)  # one step inside
                self.holders.remove(token)
        except (UserError, Killed):
            pass
        finally:
            self.running[token] = False
            self._waits[token].release()

    def go_on(self, token: str) -> bool:
        """One operation more; whether the actor still runs."""
        if self.running[token]:
            self._turn[token].release()
            self._waits[token].acquire()
        return self.running[token]

    def kill(self, token: str) -> None:
        """Where it stands."""
        if not self.running[token]:
            return
        self.dead.add(token)
        self.gone.add(token)
        while self.go_on(token):
            pass


REAL_THREAD = threading.Thread


class _NoThread:
    def __init__(self, **options: object):
        pass

    def start(self) -> None:
        pass


class _Told:
    """`Owner`, whose `new` gives an actor its own token."""

    of_class = Owner

    def __init__(self, actors: Actors):
        self._actors, self._me = actors, Owner.new()

    def new(self) -> Owner:
        return self._me.model_copy(update={"token": self._actors.token()})

    def model_validate_json(self, text: str) -> Owner:
        return Owner.model_validate_json(text)


@pytest.fixture
def actors(tmp_path: Path) -> Iterator[Callable[[bool], Actors]]:
    """Makes actors before a lock that is free, or whose owner is dead."""
    with pytest.MonkeyPatch.context() as patch:
        made: list[pytest.MonkeyPatch] = [patch]

        def make(left_over: bool) -> Actors:
            made[-1].undo()
            made.append(pytest.MonkeyPatch())
            folder = tmp_path / str(len(made))
            folder.mkdir()
            if left_over:
                left_by(folder / ".lock", token="0" * 16)
            job = Actors(folder / ".lock", made[-1])
            job.gone.add("0" * 16)
            return job

        yield make
        made[-1].undo()


TOKENS = [letter * 16 for letter in "abcd"]


def ends_well(job: Actors, tokens: list[str], killed: bool) -> None:
    """All go on to their end, one after the other; then another process gets the lock, and leaves nothing."""
    for token in tokens:
        while job.go_on(token):
            pass
    assert job.most_holders <= 1, "two held the lock"
    assert killed or job.times_held, "nobody got the lock"
    before = job.times_held
    job.start("e" * 16)
    while job.go_on("e" * 16):
        pass
    assert job.times_held == before + 1, "a dead process is in the way"
    assert list(job.lock.parent.iterdir()) == []


@pytest.mark.parametrize("left_over", [False, True])
@pytest.mark.parametrize("kills", [0, 1, 2])
def test_each_order_of_two_or_three_processes(actors, left_over: bool, kills: int):
    """The first stops (or is killed) at each of its steps, the second at each of its, a third runs; then they go on."""
    first_step = 0
    more = True
    while more:
        more, second_step, second_more = False, 0, True
        while second_more:
            job = actors(left_over)
            tokens = TOKENS[:3]
            for token, steps in zip(tokens, (first_step, second_step, 10**6), strict=True):
                job.start(token)
                for _ in range(steps):
                    if not job.go_on(token):
                        break
                if token == tokens[0]:
                    more = job.running[token]
                if token == tokens[1]:
                    second_more = job.running[token]
                if tokens.index(token) < kills:
                    job.kill(token)
            ends_well(job, tokens, kills > 0)
            second_step += 1
        first_step += 1


def test_random_orders_of_four_processes_of_which_some_are_killed(actors):
    for seed in range(150):
        chosen = random.Random(seed)
        job = actors(chosen.random() < 0.7)
        for token in TOKENS:
            job.start(token)
        killed = False
        while any(job.running.values()):
            token = chosen.choice([one for one in TOKENS if job.running[one]])
            if chosen.random() < 0.02:
                job.kill(token)
                killed = True
            else:
                for _ in range(chosen.choice((1, 1, 2, 5))):
                    job.go_on(token)
        ends_well(job, TOKENS, killed)


def test_an_owner_that_lives_on_though_it_counts_as_gone(actors):
    """Silent for too long, it ends its work at any moment of a takeover. The others hold the lock one at a time."""
    first_more, first_step = True, 0
    while first_more:
        second_more, second_step = True, 0
        while second_more:
            job = actors(False)
            silent, first, second = "0" * 16, *TOKENS[:2]
            job.start(silent)
            while not job.holders:
                job.go_on(silent)
            job.start(first)
            for _ in range(first_step):
                first_more = job.go_on(first)
            while job.go_on(silent):
                pass
            job.start(second)
            for _ in range(second_step):
                second_more = job.go_on(second)
            for token in (first, second):
                while token not in job.holders and job.go_on(token):
                    pass
            ends_well(job, [first, second], killed=False)
            second_step += 1
        first_step += 1


def test_a_claim_is_withdrawn_when_its_process_is_interrupted(tmp_path, monkeypatch):
    """It lives on, and would be in the way of all others."""
    left_by(tmp_path / ".lock", started=1)

    def interrupt(*paths: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupt)
        with locked(tmp_path / ".lock", tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with locked(tmp_path / ".lock", tmp_path):
        pass


def test_processes_that_race_and_are_killed(tmp_path):
    """Six at a time; 60 are killed, wherever they are. Whoever is inside finds no other living one there."""
    place, inside, log = tmp_path / "place", tmp_path / "inside", tmp_path / "log"
    place.mkdir()

    def race(seed: int) -> None:
        chosen = random.Random(seed)
        while True:
            try:
                with locked(place / ".lock", place):
                    here = [int(path.name) for path in inside.iterdir()]
                    living = [one for one in here if locks._state(one)[0] not in ("", "Z", "X")]
                    mark = inside / str(os.getpid())
                    mark.touch()
                    with open(log, "a") as file:
                        file.write(f"{len(living)}\n")
                    time.sleep(chosen.random() * 0.004)
                    mark.unlink()
            except UserError:
                time.sleep(0.0005)

    inside.mkdir()
    chosen = random.Random(0)
    seeds = iter(range(10**6))
    workers = [in_child(lambda: race(next(seeds))) for _ in range(6)]
    try:
        for _ in range(60):
            time.sleep(chosen.random() * 0.02)
            victim = workers.pop(chosen.randrange(len(workers)))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            (inside / str(victim)).unlink(missing_ok=True)
            workers.append(in_child(lambda: race(next(seeds))))
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
    found = log.read_text().split()
    assert len(found) > 60 and set(found) == {"0"}
    with locked(place / ".lock", place):
        pass
    assert list(place.iterdir()) == []
