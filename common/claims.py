"""Claims on what one job at a time may write in an object store, which has no locks.

Each job writes an object of its own beside the place, and then looks for those of others: stores list what has been
written, so that of two jobs that come at once one sees the other, or both do. An owner writes its object again while it
lives; how long it was silent is told by the clock of the store.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skipwise.common import failure
from skipwise.common.errors import UserError
from skipwise.common.locks import LOCK, InUse, Owner, read_owner, refusal
from skipwise.common.stores import Place

BEAT_S = 20.0
"""How often an owner shows that it lives. It counts as gone after `locks.GONE_S`."""


def claims_on(place: Place) -> Place:
    """Returns the folder of the claims on a place."""
    above, _, name = place.key.rpartition("/")
    return place._replace(key=f"{above}/.{name}{LOCK}".lstrip("/"))


@contextmanager
def claimed(place: Place, otherwise: str) -> Iterator[None]:
    """No other job has `place` for the time of the block.

    Raises a `UserError` that names the owner where one has it (`otherwise`: what to do besides waiting). A process that
    finds its claim gone, because it was silent for too long, ends with code 1.
    """
    me, ended = Owner.new(), threading.Event()
    mine = claims_on(place) / me.token
    with tempfile.TemporaryDirectory(prefix="skipwise-") as scratch:
        text = Path(scratch) / "mine"
        text.write_text(me.model_dump_json())
        beat = threading.Thread(target=_show_life, args=(place, me.token, text, ended), name="claim", daemon=True)
        mine.put(text)
        try:
            _refuse_others(place, me, otherwise)
            beat.start()
            yield
        finally:
            ended.set()
            if beat.ident:
                beat.join(BEAT_S)
            with suppress(UserError):  # it counts as gone soon
                mine.remove()


def _refuse_others(place: Place, me: Owner, otherwise: str) -> None:
    """Raises `InUse` where another owner lives; removes the claims of those that do not."""
    folder = claims_on(place)
    found = folder.files()
    now = found[me.token].changed if me.token in found else 0
    for token in found.keys() - {me.token}:
        with suppress(FileNotFoundError):  # it has ended meanwhile
            owner = read_owner(folder / token, (folder / token).beginning(4096).decode(errors="replace"))
            silent_s = max((now - found[token].changed) / 1e9, 0.0)
            if not owner.is_gone(silent_s, me):
                raise InUse(refusal(owner, me, silent_s, place, otherwise))
            (folder / token).remove()


def _show_life(place: Place, token: str, text: Path, ended: threading.Event) -> None:
    folder = claims_on(place)
    while not ended.wait(BEAT_S):
        with suppress(UserError):  # of a store that does not answer now
            if token in folder.files():
                (folder / token).put(text)
            elif not ended.is_set():
                words = f"skipwise: {folder / token} is gone, so that another job may write {place}: ends"
                failure.record(words)
                print(words, file=sys.stderr, flush=True)
                os._exit(1)
