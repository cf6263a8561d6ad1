"""The cache and what is stored, against a real S3 server."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipwise.common import mirrors
from skipwise.common.errors import UserError
from skipwise.common.mirrors import UNFINISHED, complete, local, publish, upload
from skipwise.common.outputs import atomic_output, refuse_existing
from skipwise.common.stores import Place
from skipwise.common.work_folders import worked_on
from tests.support.object_store import ObjectStore

OLD = {"manifest.json": "old", "sessions/a": "old a", "sessions/b": "old b"}
NEW = {"manifest.json": "new", "sessions/a": "new a", "sessions/c": "new c"}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def place_of(url: str) -> Place:
    place = Place.of(url)
    assert place
    return place


def stored(url: str, files: dict[str, str], scratch: Path) -> Place:
    place = place_of(url)
    publish(write(scratch, files), place)
    return place


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Goes on with an empty cache."""
    numbers = iter(range(1000))
    return lambda: monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / f"machine-{next(numbers)}"))


def test_what_is_stored_comes_back(bucket: str, tmp_path: Path):
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    assert content(local(f"{bucket}/data")) == OLD
    assert local(Path(f"{bucket}/data/sessions/b")).read_text() == "old b"


PARTS = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=8)
LEGAL = PARTS.filter(lambda name: not name.startswith(".") and len(name.encode()) < 60)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.tuples(LEGAL, LEGAL).map("/".join), st.text(max_size=9), min_size=1, max_size=6), LEGAL)
def test_any_names_come_back(bucket: str, tmp_path: Path, files: dict[str, str], folder: str):
    for leftover in tmp_path.iterdir():
        shutil.rmtree(leftover)
    stored(f"{bucket}/{folder}", files, tmp_path / "out")
    assert content(local(f"{bucket}/{folder}")) == content(tmp_path / "out")


@pytest.fixture
def time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since anything was stored."""
    monkeypatch.setattr(mirrors, "_FRESH_S", -10.0)


@pytest.mark.usefixtures("time_has_passed")
def test_what_is_there_and_unchanged_is_not_fetched_again(bucket: str, object_store: ObjectStore, tmp_path: Path):
    place = stored(f"{bucket}/data", OLD, tmp_path / "old")
    local(bucket + "/data")
    assert sorted(path for path in object_store.asked("GET") if path) == sorted(f"data/{name}" for name in OLD)
    object_store.reset()
    local(bucket + "/data")
    assert not [path for path in object_store.asked("GET") if path]
    (place / "sessions/b").put(write(tmp_path / "changed", {"b": "another b"}) / "b")
    (place / "sessions/a").remove()
    assert content(local(bucket + "/data")) == {"manifest.json": "old", "sessions/b": "another b"}


def test_what_is_not_wanted_is_not_fetched(bucket: str, object_store: ObjectStore, tmp_path: Path):
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    folder = local(f"{bucket}/data", lambda name: name == "manifest.json")
    assert content(folder) == {"manifest.json": "old"}
    assert content(complete(folder / "sessions")) == {"a": "old a", "b": "old b"}
    assert complete(tmp_path / "old") == tmp_path / "old"


def test_an_output_is_also_its_copy(bucket: str, object_store: ObjectStore):
    with atomic_output(Path(f"{bucket}/data"), False, Path.is_dir) as scratch:
        write(scratch / "result", NEW)
    object_store.reset()
    assert content(local(f"{bucket}/data")) == NEW
    assert not [path for path in object_store.asked("GET") if path]


def test_the_manifest_is_stored_last_and_removed_first(bucket: str, object_store: ObjectStore, tmp_path: Path):
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    object_store.reset()
    stored(f"{bucket}/data", NEW, tmp_path / "new")
    changes = [(how, path.split("/", 3)[-1]) for how, path in object_store.requests if "/.data.lock/" not in path]
    changes = [(how, name) for how, name in changes if how in ("PUT", "DELETE") and name and not name.endswith("/")]
    assert changes[:2] == [("PUT", UNFINISHED), ("DELETE", "manifest.json")]
    assert {*changes[2:4]} == {("PUT", "sessions/a"), ("PUT", "sessions/c")}
    assert changes[4:] == [("PUT", "manifest.json"), ("DELETE", "sessions/b"), ("DELETE", UNFINISHED)]


class Killed(BaseException):
    """Of a process, between two requests."""


@pytest.mark.parametrize("after", range(8))
def test_killed_while_storing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, other_machine: Callable[[], None]
):
    """A reader sees the old, a refusal, or the new; never some of both. --overwrite then writes it again."""
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    with monkeypatch.context() as patched:
        left, lock = [after], threading.Lock()

        def counted(method: Callable[..., None]) -> Callable[..., None]:
            def call(place: Place, *arguments: object) -> None:
                if not place.key.startswith("."):  # which is a claim
                    with lock:
                        left[0] -= 1
                        if left[0] < 0:
                            raise Killed
                method(place, *arguments)

            return call

        patched.setattr(Place, "put", counted(Place.put))
        patched.setattr(Place, "remove", counted(Place.remove))
        died = True
        try:
            with atomic_output(Path(f"{bucket}/data"), True, Path.is_dir) as scratch:
                write(scratch / "result", NEW)
            died = False
        except Killed:
            pass
    assert died == (after < 7)
    other_machine()
    if after == 0:
        assert content(local(f"{bucket}/data")) == OLD
    elif died:
        with pytest.raises(UserError, match="is being written, or that was cut off"):
            local(f"{bucket}/data")
        with pytest.raises(UserError, match="cut off: choose another --output, or replace it with --overwrite"):
            refuse_existing(Path(f"{bucket}/data"), False, Path.is_dir)
        with atomic_output(Path(f"{bucket}/data"), True, Path.is_dir) as scratch:
            write(scratch / "result", NEW)
    if after:
        assert content(local(f"{bucket}/data")) == NEW


def test_outputs_that_stand_there(bucket: str, tmp_path: Path):
    stored(f"{bucket}/data", {"notes.txt": "mine"}, tmp_path / "mine")
    for overwrite, expected in ((False, "data exists: choose another"), (True, "is not what this command writes")):
        with pytest.raises(UserError, match=expected):
            with atomic_output(Path(f"{bucket}/data"), overwrite, lambda path: (path / "manifest.json").exists()):
                raise AssertionError
    stored(f"{bucket}/outer", {"manifest.json": "{}", "sub/manifest.json": "{}"}, tmp_path / "outer")
    with pytest.raises(UserError, match="outer holds another output .sub/manifest.json., which would go with it"):
        refuse_existing(Path(f"{bucket}/outer"), True, lambda path: True)
    local(f"{bucket}/outer")
    (Place.of(f"{bucket}/outer") / "sub/manifest.json").remove()  # the cache still has it
    with atomic_output(Path(f"{bucket}/outer"), True, lambda path: True) as scratch:
        write(scratch / "result", NEW)
    assert content(local(f"{bucket}/outer")) == NEW
    with pytest.raises(UserError, match="is a whole bucket: name a folder or a file in it"):
        with atomic_output(Path(bucket), True, Path.is_dir):
            raise AssertionError


def test_an_error_names_the_url(bucket: str, object_store: ObjectStore):
    with pytest.raises(UserError, match=f"^{bucket}/data/sessions is empty$"):
        with atomic_output(Path(f"{bucket}/data"), False, Path.is_dir) as scratch:
            raise UserError(f"{scratch / 'result' / 'sessions'} is empty")
    assert not object_store.asked("PUT")


def test_a_cache_that_cannot_be_written(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(
        UserError, match=rf"{bucket}/data is copied to, cannot be written \(.*\): name another folder with"
    ):
        local(f"{bucket}/data")
    with pytest.raises(UserError, match=rf"the copy of {bucket}/out, cannot be written \(.*\): .* with SKIPWISE_CACHE"):
        with atomic_output(Path(f"{bucket}/out"), False, Path.is_dir):
            raise AssertionError


def test_an_output_of_one_file(bucket: str):
    with atomic_output(Path(f"{bucket}/report.html"), False, Path.is_file) as scratch:
        (scratch / "result").write_text("page")
    assert local(f"{bucket}/report.html").read_text() == "page"


def test_a_store_that_fails_now_and_then(bucket: str, object_store: ObjectStore, tmp_path: Path):
    asked = iter(range(1000))
    object_store.answer = lambda method, path: 409 if next(asked) % 5 == 0 else 0  # S3's own library gives up at once
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    assert content(local(f"{bucket}/data")) == OLD


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (409, "s3://.*/data cannot be read in 3 tries .*: check the URL and the connection, and run this again"),
        (403, "s3://.*/data is refused .*: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_store_that_refuses(bucket: str, object_store: ObjectStore, status: int, expected: str):
    object_store.answer = lambda method, path: status
    with pytest.raises(UserError, match=expected):
        local(f"{bucket}/data")


def test_what_is_not_there(bucket: str, tmp_path: Path):
    with pytest.raises(UserError, match=f"{bucket}/data does not exist or holds no file that is read here: check"):
        local(f"{bucket}/data")
    with pytest.raises(UserError, match="s3://no-such-bucket/.* does not exist .*: check the URL"):
        publish(write(tmp_path / "old", OLD), Place("s3", "no-such-bucket", "data"))


def test_an_object_vanishes_while_others_are_fetched(bucket: str, object_store: ObjectStore, tmp_path: Path):
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    outside = object_store.files

    def answer(method: str, path: str) -> int:
        if method == "GET" and path.endswith("/b"):
            object_store.answer = lambda method, path: 0
            outside.delete_file(f"{bucket[5:]}/data/sessions/b")
        return 0

    object_store.answer = answer
    assert content(local(f"{bucket}/data")) == {"manifest.json": "old", "sessions/a": "old a"}


def test_a_folder_that_never_stands_still(bucket: str, object_store: ObjectStore, tmp_path: Path):
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    sizes, outside = iter(range(10, 1000)), object_store.files

    def answer(method: str, path: str) -> int:
        if method == "GET" and path.endswith("/a"):
            with outside.open_output_stream(path[1:]) as target:
                target.write(b"x" * next(sizes))
        return 0

    object_store.answer = answer
    with pytest.raises(UserError, match="/data changes while it is read: run this again once it is written"):
        local(f"{bucket}/data")


def test_a_full_disk(bucket: str, tmp_path: Path):
    place = stored(f"{bucket}/data", OLD, tmp_path / "old")
    scratch = mirrors.cache_folder() / "partial"
    scratch.mkdir(parents=True)
    for name in OLD:
        os.symlink("/dev/full", scratch / mirrors._digest(f"{place} {name}"))
    with pytest.raises(
        UserError, match=r"the copy of s3:.*, cannot be written \(No space left .*\): free the disk, or name"
    ):
        local(f"{bucket}/data")


@pytest.mark.usefixtures("time_has_passed")
def test_two_readers_at_once_fetch_once(bucket: str, object_store: ObjectStore, tmp_path: Path):
    stored(f"{bucket}/data", OLD, tmp_path / "old")
    object_store.reset()
    readers = [threading.Thread(target=local, args=(f"{bucket}/data",)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert sorted(path for path in object_store.asked("GET") if path) == sorted(f"data/{name}" for name in OLD)


@pytest.mark.usefixtures("time_has_passed")
def test_a_folder_that_is_worked_on(bucket: str, object_store: ObjectStore, other_machine: Callable[[], None]):
    url = f"{bucket}/runs/a"
    with worked_on(url, "--run-dir") as folder:
        write(Path(folder), {"run.json": "1", "checkpoints/one/checkpoint.json": "1", ".lock": "hidden"})
        upload(Path(folder), prune=True)
        assert content(local(url)) == {"run.json": "1", "checkpoints/one/checkpoint.json": "1"}
    other_machine()
    with pytest.raises(Killed):
        with worked_on(url, "--run-dir") as folder:
            write(Path(folder), {"checkpoints/two/checkpoint.json": "2"})
            shutil.rmtree(Path(folder) / "checkpoints/one")
            object_store.reset()
            upload(Path(folder), prune=True)
            assert [path for path in object_store.asked("PUT") if "run.json" in path] == []  # it has not changed
            write(Path(folder), {"checkpoints/three/checkpoint.json": "3"})
            raise Killed
    other_machine()
    with worked_on(url, "--run-dir") as folder:
        assert content(Path(folder)) == {"run.json": "1", "checkpoints/two/checkpoint.json": "2"}
    assert worked_on("runs/a", "--run-dir").__enter__() == "runs/a"


def test_a_pointer_of_the_same_size_is_stored_again(bucket: str):
    with worked_on(f"{bucket}/run", "--run-dir") as folder:
        for name in ("train-1-1", "train-2-2", "train-3-3"):
            write(Path(folder), {"best": name})
            upload(Path(folder))
            assert local(f"{bucket}/run/best").read_text() == name
