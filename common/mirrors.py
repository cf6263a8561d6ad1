"""Files of object stores as files of this machine: a cache of what is read, and what is written until it is stored.

A path in the cache says which URL it is a copy of. A copy has the size and the time of what is in the store, and is
fetched or stored again where either differs. Hidden files are left out.

What says that a directory is whole, such as its manifest, is stored last and removed first. While a whole directory is
stored, `UNFINISHED` lies in it, and nobody reads it.
"""

import hashlib
import json
import os
import platform
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from skipwise.common.claims import claimed
from skipwise.common.console import stage
from skipwise.common.errors import UserError, reason
from skipwise.common.locks import InUse, locked
from skipwise.common.stores import Place, Stored, is_hidden, refuse_inner

UNFINISHED = "_unfinished.json"
_CHECKPOINT = "checkpoint.json"
_LAST = (_CHECKPOINT, "best", "latest", "metrics.json", "run.json", "manifest.json")
"""Files that say that others are whole, in the order in which they are stored."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_TOGETHER = 8
"""Files copied at a time."""
_FRESH_S = 5.0
"""Stores count in seconds: what was written so lately may be written again in the same one, and is fetched again."""
_ROUNDS = 5  # that a directory which changes is fetched
Wanted = Callable[[str], bool]


def local(path: str | Path, wanted: Wanted = lambda name: True, may_be_new: bool = False) -> Path:
    """Returns where the files are that a URL names, once they are in the cache as they are in the store now.

    `wanted`: which of a folder's files, by their paths in it; `may_be_new`: there may be none yet. Any other path is
    returned as it is. Processes that want the same wait for the first. Raises `UserError` for what is not there, not
    whole, or cannot be reached.
    """
    place = Place.of(path)
    if place is None:
        return Path(path)
    target = copy_of(place)
    try:
        with alone(place):
            bring(place, target, wanted, may_be_new)
    except OSError as error:
        raise UserError(
            f"{cache_folder()}, where {place} is copied to, cannot be written ({reason(error)}): name another folder "
            "with SKIPWISE_CACHE"
        ) from None
    return target


def complete(path: Path) -> Path:
    """Returns a path in a directory that `local` has returned, once all of it is there; any other as it is."""
    place = place_of(path, "read")
    return path if place is None else local(str(place))


def upload(path: Path, prune: bool = False) -> None:
    """Stores what has changed in a directory of the cache; does nothing for any other.

    `prune`: what is no longer in it is removed from the store too.
    """
    for tree in ("read", "work"):
        if place := place_of(path, tree):
            _store(path, place, prune)


def publish(result: Path, place: Place) -> None:
    """Stores a whole file or directory in place of what is there; raises `UserError` where another job does so."""
    with claimed(place, "choose another --output"):
        if result.is_dir():
            mark = result / UNFINISHED
            mark.write_text(json.dumps({"process": os.getpid(), "host": platform.node(), "since": time.ctime()}) + "\n")
            (place / UNFINISHED).put(mark)
            mark.unlink()
            for name in sorted(filter(_turn, place.files()), key=_turn, reverse=True):
                (place / name).remove()
        size = sum((result / name).stat().st_size for name in _files(result))
        with stage(f"storing {place}", size, "bytes") as advance:
            _store(result, place, result.is_dir(), advance)


def refuse_stored(place: Place, overwrite: bool, replaceable: Callable[[Path], bool]) -> None:
    """Raises `UserError` where something is at a place and may not be replaced."""
    found = place.files()
    if found and not overwrite:
        state = "holds what is being written, or was cut off" if UNFINISHED in found else "exists"
        raise UserError(f"{place} {state}: choose another --output, or replace it with --overwrite")
    refuse_inner(place, found)
    if found and UNFINISHED not in found:
        marks = {"", *_LAST} & found.keys()  # of a directory
        if not marks or not replaceable(local(str(place), lambda name: name in marks)):
            raise UserError(f"{place} is not what this command writes: move it away or choose another --output")


def cache_folder() -> Path:
    """Returns the folder of all copies, $SKIPWISE_CACHE or ~/.cache/skipwise."""
    named = os.environ.get("SKIPWISE_CACHE")
    return Path(os.path.realpath(named or Path("~/.cache/skipwise").expanduser()))


def copy_of(place: Place, tree: str = "read") -> Path:
    """Returns where `local` has a place or, with "work", `worked_on`; stores at other addresses have other folders."""
    address = next(filter(None, map(os.environ.get, _ENDPOINTS)), "") if place.scheme == "s3" else ""
    store = f"{place.scheme}-{zlib.crc32(address.encode()):08x}" if address else place.scheme
    return cache_folder() / tree / store / place.host / place.key


def place_of(path: Path, tree: str) -> Place | None:
    """Returns of which place a path of the cache is a copy, as `copy_of` has it; None for any other path."""
    root = cache_folder() / tree
    if not path.is_relative_to(root) or len(path.relative_to(root).parts) < 2:
        return None
    store, host, *key = path.relative_to(root).parts
    return Place(store.partition("-")[0], host, "/".join(key))


@contextmanager
def alone(place: Place) -> Iterator[None]:
    """One process at a time on this machine fetches a place."""
    lock = cache_folder() / "locks" / f"{_digest(str(place))}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(lock, lock))
                break
            except InUse:
                time.sleep(0.2)
        yield


def bring(place: Place, target: Path, wanted: Wanted, may_be_new: bool = False, only: bool = False) -> None:
    """Makes `target` equal to what is at a place, as far as it is wanted, and so for as long as the fetching took.

    `only`: copies of what is not wanted are removed, but for those that are as in the store.
    """
    fetched: dict[str, Stored] = {}
    for _ in range(_ROUNDS):
        found = place.files()
        listed = {name: stored for name, stored in found.items() if wanted(name)}
        if UNFINISHED in found:
            raise UserError(
                f"{place} is being written, or that was cut off: wait until it is whole, or write it again with "
                "--overwrite"
            )
        if not listed and not may_be_new:
            raise UserError(f"{place} does not exist or holds no file that is read here: check the URL")
        current = {name: stored for name, stored in found.items() if _stored(target / name) == stored}
        _remove_others(target, listed | current if only else found)
        stale = {
            name: stored
            for name, stored in listed.items()
            if fetched.get(name) != stored and _stored(target / name) != stored
        }
        if not stale:
            return
        fetched |= _fetch(place, target, stale)
    raise UserError(f"{place} changes while it is read: run this again once it is written")


def _fetch(place: Place, target: Path, stale: dict[str, Stored]) -> dict[str, Stored]:
    """Returns what was fetched as it was listed; the next listing has what has changed or vanished meanwhile."""
    scratch, fetched = cache_folder() / "partial", dict[str, Stored]()

    def fetch(name: str, advance: Callable[[int], object]) -> None:
        stored, source = stale[name], place / name
        try:
            source.fetch(target / name, scratch / _digest(f"{place} {name}"), advance)
        except FileNotFoundError:
            return
        if (target / name).stat().st_size == stored.bytes:
            fetched[name] = stored
            if time.time() - stored.changed / 1e9 > _FRESH_S:
                os.utime(target / name, ns=(stored.changed, stored.changed))

    with stage(f"fetching {place}", sum(stored.bytes for stored in stale.values()), "bytes") as advance:
        _each(sorted(stale, key=_turn), partial(fetch, advance=advance))
    return fetched


def _remove_others(target: Path, found: Collection[str]) -> None:
    """Removes copies of what is no longer in the store, and folders that are then empty or in the way of a file."""
    if target.is_dir() and "" in found:
        shutil.rmtree(target)
    for name in _files(target):
        if name not in found:
            (target / name).unlink()
            with suppress(OSError):
                for folder in Path(name).parents[:-1]:
                    (target / folder).rmdir()
    for name in filter(None, found):
        if (target / name).is_dir():
            shutil.rmtree(target / name)


def _store(source: Path, place: Place, prune: bool, advance: Callable[[int], object] = lambda done: None) -> None:
    """Makes a place equal to `source`; copies then have the time of what is in the store."""
    there = place.files()
    here = {name: stored for name in _files(source) if (stored := _stored(source / name))}
    new = {name: stored for name, stored in here.items() if there.get(name) != stored}
    _each(sorted(new, key=_turn), lambda name: (place / name).put(source / name, advance))
    gone = [name for name in there if prune and name not in here and not _is_of_others(name, here)]
    for name in sorted(gone, key=lambda name: (name == UNFINISHED, -_turn(name))):
        (place / name).remove()
    after = place.files() if new else {}
    for name in new.keys() & after.keys():
        if _stored(source / name) == new[name]:  # has not changed meanwhile
            os.utime(source / name, ns=(after[name].changed, after[name].changed))


def _is_of_others(name: str, here: Collection[str]) -> bool:
    """Whether a file that is not here belongs to a checkpoint that is: another machine has written it."""
    folder = name.rpartition("/")[0]
    return f"{folder}/{_CHECKPOINT}" in here


def _each(names: list[str], copy: Callable[[str], None]) -> None:
    """Copies files, several at a time, and those of `_LAST` one by one once all before them are copied."""
    plain = [name for name in names if not _turn(name)]
    with ThreadPoolExecutor(_TOGETHER) as pool:
        jobs = [pool.submit(copy, name) for name in plain]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    for name in names[len(plain) :]:
        copy(name)


def _turn(name: str) -> int:
    """0 for what is stored first, more for what is stored later."""
    last = name.rpartition("/")[2]
    return 1 + _LAST.index(last) if last in _LAST else 0


def _files(folder: Path) -> list[str]:
    """The files in a folder, by their paths in it; "" for a path that is a file itself."""
    if folder.is_file():
        return [""]
    found = (Path(inner) / name for inner, _, names in os.walk(folder) for name in names)
    names = (str(file.relative_to(folder)) for file in found if file.is_file() and not file.is_symlink())
    return [name for name in names if not is_hidden(name)]


def _stored(file: Path) -> Stored | None:
    """Size and time of a local file; None where there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return Stored(status.st_size, status.st_mtime_ns)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
