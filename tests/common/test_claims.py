"""Claims on places of a store, against a real S3 server."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skipwise.common import claims, locks
from skipwise.common.claims import claimed, claims_on
from skipwise.common.errors import UserError
from skipwise.common.locks import InUse, Owner
from skipwise.common.mirrors import publish
from skipwise.common.stores import Place
from skipwise.common.work_folders import worked_on
from tests.support.object_store import ObjectStore


@pytest.fixture
def place(bucket: str) -> Place:
    found = Place.of(f"{bucket}/runs/a")
    assert found
    return found


@pytest.fixture
def claim_of(place: Place, tmp_path: Path) -> Callable[..., Place]:
    """Leaves the claim of another owner."""

    def leave(**differences: object) -> Place:
        owner = Owner.new().model_copy(update=differences)
        (tmp_path / "claim").write_text(owner.model_dump_json())
        claim = claims_on(place) / owner.token
        claim.put(tmp_path / "claim")
        return claim

    return leave


def tokens(place: Place) -> set[str]:
    return {*claims_on(place).files()}


def test_where_claims_are():
    assert str(claims_on(Place("s3", "bucket", "runs/a"))) == "s3://bucket/runs/.a.lock"
    assert str(claims_on(Place("s3", "bucket", "data"))) == "s3://bucket/.data.lock"


def test_a_claim_is_there_for_the_block_alone(place: Place):
    with claimed(place, ""):
        assert len(tokens(place)) == 1
        assert place.files() == {}
        with pytest.raises(InUse, match=rf"^{place} is in use by process {os.getpid()} on .*: wait .*, or go away$"):
            with claimed(place, "go away"):
                raise AssertionError
        assert len(tokens(place)) == 1
    assert not tokens(place)


def test_nothing_is_stored_where_another_machine_writes(place: Place, claim_of: Callable[..., Place], tmp_path: Path):
    claim = claim_of(host="elsewhere", token="0" * 16)
    (tmp_path / "run.json").write_text("1")
    with pytest.raises(UserError, match=r"on elsewhere, .*seen alive 0 s ago .*120 s\): .* choose another --run-dir$"):
        with worked_on(str(place), "--run-dir"):
            raise AssertionError
    with pytest.raises(UserError, match="on elsewhere, .* or choose another --output$"):
        publish(tmp_path / "run.json", place)
    assert tokens(place) == {claim.key.rpartition("/")[2]}
    assert place.files() == {}


def test_an_owner_on_another_machine_that_was_silent_is_gone(
    place: Place, claim_of: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
):
    claim_of(host="elsewhere", token="0" * 16)
    time.sleep(1.1)  # stores count in seconds
    monkeypatch.setattr(locks, "GONE_S", 2.5)
    with pytest.raises(InUse):
        with claimed(place, ""):
            raise AssertionError
    monkeypatch.setattr(locks, "GONE_S", 0.5)
    with claimed(place, ""):
        assert "0" * 16 not in tokens(place)


def test_a_process_that_ended_on_this_machine_is_gone(place: Place, claim_of: Callable[..., Place]):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    claim_of(process=ended.pid, token="0" * 16)
    with claimed(place, ""):
        assert len(tokens(place)) == 1


def test_a_later_attempt_of_a_job_follows_it(place: Place, claim_of: Callable[..., Place], monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    claim_of(host="elsewhere", token="0" * 16)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with claimed(place, ""):
        assert len(tokens(place)) == 1


def test_a_claim_that_is_none_is_left(place: Place, tmp_path: Path):
    (tmp_path / "claim").write_text("notes")
    (claims_on(place) / "notes").put(tmp_path / "claim")
    with pytest.raises(UserError, match=r"\.a\.lock/notes is not a lock that this version writes: remove it"):
        with claimed(place, ""):
            raise AssertionError


def test_one_at_a_time(place: Place):
    """Of jobs that come at once, one has it at most; which of them wait is told by their error."""
    inside, most, lock = 0, 0, threading.Lock()

    def job() -> None:
        nonlocal inside, most
        for _ in range(4):
            try:
                with claimed(place, ""):
                    with lock:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.01)
                    with lock:
                        inside -= 1
            except InUse:
                pass

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert most <= 1
    assert not tokens(place)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_owner_shows_that_it_lives_and_ends_where_it_counted_as_gone(
    place: Place, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    ended = threading.Event()

    def end(code: int) -> None:
        assert code == 1
        ended.set()
        raise SystemExit  # of the thread

    monkeypatch.setattr(os, "_exit", end)
    with claimed(place, ""):
        (token,) = tokens(place)
        object_store.answer = lambda method, path: 409 if method == "PUT" else 0
        time.sleep(0.3)  # a store that does not answer now: the claim stays
        assert tokens(place) == {token} and not ended.is_set()
        object_store.reset()
        time.sleep(0.3)
        assert len([path for path in object_store.asked("PUT") if token in path]) > 1
        while not ended.wait(0.05):
            (claims_on(place) / token).remove()  # which it may be about to write again
    assert f"{token} is gone, so that another job may write {place}: ends" in capsys.readouterr().err
