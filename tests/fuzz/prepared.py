"""What `prepare` may make of a log: a dataset directory that a plain reading agrees with, or one sentence."""

import gzip
import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq

from skipwise.common.errors import UserError
from skipwise.components.__main__ import run
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from tests.fuzz.dataset import check_sentence
from tests.fuzz.logs import SUFFIXES, Log
from tests.fuzz.tally import patience


@contextmanager
def nothing_unraisable() -> Iterator[None]:
    """Fails where a traceback is printed though nothing is raised: an error in a callback of a library."""
    with patch("sys.unraisablehook") as hook:
        yield
    assert not hook.called, hook.call_args


def came_of(log: Log, words: list[str]) -> str:
    """`refused` by one sentence with nothing left behind, or `taken` as a plain reading has it; or it fails."""
    with tempfile.TemporaryDirectory() as name, chdir(name), nothing_unraisable():
        (Path(name) / log.name).write_bytes(log.data)
        try:
            with patience(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                run(["prepare", "--input", log.name, "--output", "data", *words])
        except UserError as error:
            check_sentence(str(error), "", most=1000 + len("".join(words)))
            assert "check the disk" not in str(error), f"the disk is blamed for the log: {error}"
        except SystemExit as stop:
            assert stop.code == 2
        else:
            (output,) = (path for path in Path(name).iterdir() if path.name != log.name)
            check_dataset(output, log, words)
            return "taken"
        assert [path.name for path in Path(name).iterdir()] == [log.name], "something was left behind"
        return "refused"


def check_dataset(output: Path, log: Log, words: list[str]) -> None:
    """A directory is whole, its counts are those of a plain count, its sessions those of a plain grouping."""
    store = SessionStore(str(output))
    Vocabulary.of(store).check()
    window = store.read(np.arange(len(store.group_sizes)))
    lengths, manifest = np.diff(window.offsets), store.manifest
    assert manifest.counts == {
        "sessions": len(lengths),
        "plays": lengths.sum(),
        "tracks": len(np.unique(window.tracks)),
    }
    assert manifest.session_lengths == {"min": lengths.min(), "max": lengths.max()}
    chosen = manifest.options
    least = min(chosen["min_length"], chosen["max_length"] or chosen["min_length"])
    assert least <= lengths.min() and lengths.max() <= (chosen["max_length"] or chosen["drop_longer"] or lengths.max())
    vocabulary = pq.read_table(output / "vocabulary.parquet")
    assert vocabulary["count"].to_pylist() == np.bincount(window.tracks).tolist()
    ids = vocabulary["track_id"].to_pylist()
    names = pq.read_table(output / "sessions", columns=["session_id"])["session_id"].to_pylist()
    assert len(set(names)) == len(names) and len(set(ids)) == len(ids)
    plain = plain_sessions(log, chosen)
    if plain is None:
        return
    found = {name: [] for name in names}
    for name, tracks in zip(names, np.split(window.tracks, window.offsets[1:-1]), strict=True):
        found[name] = [ids[row] for row in tracks]
        assert found[name] == plain[name][-(chosen["max_length"] or 0) :]
    lossless = chosen["on_error"] == "stop" and not chosen["require_skip"] and not chosen["drop_duplicate_sessions"]
    if lossless and chosen["sample"] is None:
        most = chosen["drop_longer"] or 10**9
        assert found.keys() == {name for name, plays in plain.items() if chosen["min_length"] <= len(plays) <= most}


def plain_sessions(log: Log, chosen: dict) -> dict[str, list[str]] | None:
    """The tracks of each session by splitting lines, or None for a log or options that take more than that."""
    suffix = log.name.removeprefix("log")
    if suffix not in SUFFIXES or chosen["gap"] is not None or chosen["drop_duplicate_plays"]:
        return None
    if chosen["where"] or {"skip", "cut"} & {chosen["on_error"], chosen["on_missing_track"]}:
        return None
    text = (gzip.decompress(log.data) if suffix.endswith(".gz") else log.data).decode("utf-8-sig", "replace")
    if '"' in text or "\r" in text:
        return None
    lines = [line for line in text.split("\n") if line]
    delimiter = "\t" if suffix == ".txt" and "\t" in lines[0] else SUFFIXES[suffix]
    rows = [line.split(delimiter) for line in lines]
    names = chosen["columns"] or (["session_id", "track_id_clean"] if len(rows[0]) == 2 else rows.pop(0))
    if not {chosen["session"], chosen["track"]} <= {*names}:
        return None
    session, track = names.index(chosen["session"]), names.index(chosen["track"])
    rows = [row for row in rows if len(row) == len(names)]
    if chosen["sort"]:
        try:
            rows.sort(key=lambda row: float(row[names.index(chosen["order"])]))
        except ValueError:
            return None
    sessions = defaultdict(list)
    for row in rows:
        sessions[row[session]].append(row[track])
    return dict(sessions)
