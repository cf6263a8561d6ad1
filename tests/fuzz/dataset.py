"""A tiny dataset directory made by `prepare`, everything that is read of one, and what may come of reading it."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from skipwise.common.errors import UserError
from skipwise.datapipes.counts import train_counts, transitions
from skipwise.datapipes.manifest import HASH, MANIFEST, VOCABULARY, digest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.session_order import SessionOrder, pad
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from tests.conftest import random_sessions
from tests.fuzz.tally import patience

PARTS = ("sessions/part-00000.parquet", "sessions/part-00001.parquet")
FILES = (MANIFEST, VOCABULARY, *PARTS)
TRACKS = 11


def make(folder: Path) -> Path:
    """26 sessions over at most 11 tracks, in two parts of two row groups each."""
    log = folder / "log.csv"
    lines = ["session_id,session_position,track_id_clean,strength,premium"]
    for number, (rows, skips) in enumerate(random_sessions(26, TRACKS, longest=8)):
        plays = enumerate(zip(rows, skips, strict=True))
        lines += [f"s{number},{place},t{row},{skip},1" for place, (row, skip) in plays]
    log.write_text("\n".join([*lines, ""]))
    with (
        patch("skipwise.datapipes.prepare.split_files.SESSIONS_PER_ROW_GROUP", 8),
        patch("skipwise.datapipes.prepare.split_files.SESSIONS_PER_PART", 16),
    ):
        prepare(PrepareConfig(input=(log,), output=folder / "data", skip_strength="strength"))
    assert {str(path.relative_to(folder / "data")) for path in (folder / "data").rglob("*.*")} == set(FILES)
    return folder / "data"


def everything(path: Path) -> dict[str, Any]:
    """All that training, evaluation and export read of a dataset directory."""
    store = SessionStore(str(path)).reading({"premium": ("1",)})  # as a run does, which has its values recorded
    Vocabulary.of(store).check()
    order = SessionOrder(store, seed=0, epoch=1, shuffle_groups=2, windows_kept=9)
    sessions = pad([order.take(0, len(store))], len(store))
    window = store.read(np.arange(len(store.group_sizes)))
    ids = [name for _, block in Vocabulary.of(store).ids(0, store.num_tracks) for name in block.to_pylist()]
    arrays = {**vars(sessions), **vars(window), "counts": train_counts(store)}
    arrays |= dict(zip(("keys", "pairs"), transitions(store), strict=True))
    values = {
        name: (array.shape, array.astype(np.int64).tobytes()) for name, array in arrays.items() if array is not None
    }
    return values | {"ids": ids, "manifest": store.manifest}


def came_of(path: Path, intact: dict[str, Any], ignoring: tuple[str, ...] = ()) -> str:
    """`refused` with one sentence that names the file, or `harmless`: all that is read is as before; or it fails."""
    try:
        with patience():
            found = everything(path)
    except UserError as error:
        check_sentence(str(error), str(path))
        return "refused"
    changed = [name for name in intact if name not in ignoring and found[name] != intact[name]]
    assert not changed, f"{changed} changed, and nobody noticed"
    return "harmless"


def check_sentence(sentence: str, named: str, most: int = 1000) -> None:
    """A message is one line that can be read, and names what is wrong."""
    assert named in sentence and sentence.isprintable(), sentence
    assert len(sentence) <= most, "a sentence nobody reads to the end"


def rewrite(path: Path, change: dict[str, Any]) -> None:
    """Changes fields of a manifest (`...` takes one out) and vouches for it anew: the work of a hostile writer."""
    content = {**json.loads((path / MANIFEST).read_text()), **change}
    content = {name: value for name, value in content.items() if value is not ...}
    if HASH in content:
        content[HASH] = digest(content)
    (path / MANIFEST).write_text(json.dumps(content))
