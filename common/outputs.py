"""Outputs that appear whole or not at all, written by one process or by all ranks."""

import glob
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from skipwise.common.errors import UserError, printable, reason
from skipwise.common.locks import LOCK, lock_beside, locked
from skipwise.common.stores import Place, refuse_inner, schemes, writing


@contextmanager
def atomic_output(output: Path, overwrite: bool, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Yields a scratch directory beside `output`; what the block writes there as `result` becomes `output`.

    One process at a time writes an output: another one is refused with a `UserError` that names it. After an exception,
    ctrl-C included, the scratch directory is removed and `output` is as it was; what killed processes left is removed
    first. An `output` that exists is refused with a `UserError`, unless `overwrite` is set and `replaceable(output)`
    holds; so is a URL of no known store. A `UserError` of the block names `output` where it names the scratch
    directory.

    An `output` in an object store is written in the cache, whole, and then stored; see `mirrors.publish`.
    """
    if place := Place.of(output):
        place.require_key()
        refuse_existing(output, overwrite, replaceable)
        from skipwise.common.mirrors import copy_of, publish

        copy = copy_of(place)
        with writing(place, copy):
            pass
        # What else the cache has of the place may be gone from the store.
        check = partial(_refuse_kind, copy, True, lambda path: True)
        with _final_names(copy, place), _replaced(copy, check) as scratch:
            yield scratch
            refuse_existing(output, overwrite, replaceable)
            publish(scratch / "result", place)
        return
    refuse_url(output)
    with _replaced(output, partial(refuse_existing, output, overwrite, replaceable)) as scratch:
        yield scratch


@contextmanager
def _replaced(output: Path, check: Callable[[], None]) -> Iterator[Path]:
    """`atomic_output` for a local path; `check` refuses what may not be replaced."""
    with ExitStack() as held:
        try:
            check()
            held.callback(_remove_empty, [folder for folder in output.parents if not folder.exists()])
            output.parent.mkdir(parents=True, exist_ok=True)
            output.exists()  # raises for a name that cannot be, now that its folder is there
            lock = lock_beside(output)
            held.enter_context(locked(lock, output, "choose another --output"))
            prefix = f"{lock.name.removesuffix(LOCK)}."
            _clean_up(output, prefix)
            check()
            scratch = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=output.parent))
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else error
            raise UserError(f"cannot write beside {output} ({why}): choose another --output") from None
        try:
            with _final_names(scratch, output):
                yield scratch
            check()
            if output.exists():
                os.rename(output, scratch / "replaced")
            os.rename(scratch / "result", output)
        finally:
            _restore(scratch, output)
            shutil.rmtree(scratch, ignore_errors=True)


def refuse_url(output: Path, flag: str = "--output") -> None:
    """Raises `UserError` for a path that starts like a URL ("s3://bucket/table"); `flag` is the option to change."""
    if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(output)):
        raise UserError(
            f"{found[1]}://{found[2]} is a URL, and only local paths and those of {schemes()} are written: name a "
            f"local {flag} and copy it from there"
        )


def require_directory(output: Path) -> None:
    """Raises `UserError` where `output` cannot be a directory that is made and added to: a URL or a file."""
    refuse_url(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a directory with --output")


@contextmanager
def _final_names(scratch: Path, output: Path | Place) -> Iterator[None]:
    """Replaces the scratch directory by `output` in the messages of errors: it is gone when they are read."""
    try:
        yield
    except UserError as error:
        sentence = str(error)
        for path in (scratch / "result", scratch):
            sentence = sentence.replace(printable(str(path)), printable(str(output)))
        if sentence == str(error):
            raise
        raise UserError(sentence) from error


def _remove_empty(folders: list[Path]) -> None:
    """Removes these folders, innermost first, as far as they are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _restore(scratch: Path, output: Path) -> None:
    """Moves back what was to be replaced, where nothing has."""
    if (scratch / "replaced").exists() and not output.exists():
        os.rename(scratch / "replaced", output)


def _clean_up(output: Path, prefix: str) -> None:
    """Removes the scratch directories that killed processes left, and restores what they had moved.

    They are of no living process, since that would hold the lock.
    """
    for scratch in output.parent.glob(f"{glob.escape(prefix)}????????.partial"):
        _restore(scratch, output)
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_existing(output: Path, overwrite: bool, replaceable: Callable[[Path], bool]) -> None:
    """Raises `UserError` where `output` exists and may not be replaced."""
    if place := Place.of(output):
        from skipwise.common.mirrors import refuse_stored

        refuse_stored(place, overwrite, replaceable)
        return
    _refuse_kind(output, overwrite, replaceable)
    refuse_inner(output, map(str, output.glob("*/**/manifest.json")))


def _refuse_kind(output: Path, overwrite: bool, replaceable: Callable[[Path], bool]) -> None:
    if not (output.exists() or output.is_symlink()):
        return
    if not overwrite:
        raise UserError(f"{output} exists: choose another --output, or replace it with --overwrite")
    if output.is_symlink() or not replaceable(output):
        raise UserError(f"{output} exists and is not what this command writes: move it away or choose another --output")


@contextmanager
def atomic_output_on_all_ranks(output: Path, overwrite: bool, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """`atomic_output` for all ranks: rank 0 makes the scratch directory, and publishes or removes it.

    The block must fail on every rank or on none (`on_all_ranks`). SIGTERM, which torchrun sends to the other ranks when
    one has ended, is a failure like any other.
    """

    # Imported here: a command of one process does not import torch.
    from skipwise.common.distributed import broadcast_object, on_all_ranks, rank
    from skipwise.common.node_disks import refuse_apart

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    def failed(why: str) -> str:
        return f"{output} cannot be written ({why}): free the disk or choose another --output"

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with ExitStack() as publishing:

            def enter() -> Path | None:
                return publishing.enter_context(atomic_output(output, overwrite, replaceable)) if rank() == 0 else None

            scratch = broadcast_object(on_all_ranks(enter, failed))
            refuse_apart(not scratch.is_dir(), output, "run this on one machine, or on machines that share the folder")
            try:
                with _final_names(scratch, output):
                    yield scratch
            finally:
                # torchrun may send it while the directory is renamed or removed, which must finish.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            on_all_ranks(publishing.close, failed)
    finally:
        signal.signal(signal.SIGTERM, before)
