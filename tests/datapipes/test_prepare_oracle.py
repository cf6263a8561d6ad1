"""`prepare` against a plain Python grouping of the same rows."""

import csv
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare

NAMES = ["session_id", "session_position", "track_id_clean", "skip_1", "skip_2", "skip_3", "not_skipped"]
FLAGS = [
    ("0", "0", "0", "1"),
    ("true", "true", "true", "false"),
    ("False", "True", "True", "False"),
    ("0", "0", "1", "0"),
]

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6).filter(
    lambda text: text.strip() and text.strip().lower() not in ("nan", "null", "none")
)


@st.composite
def logs(draw) -> list[list[tuple]]:
    """Rows of up to three files; each session lies in one file, its positions grow, others stand in between."""
    tracks = draw(st.lists(ids, min_size=1, max_size=8, unique=True))
    files: list[list[tuple]] = [[] for _ in range(draw(st.integers(1, 3)))]
    for session in draw(st.lists(ids, min_size=1, max_size=12, unique=True)):
        steps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=7))
        positions = [sum(steps[: end + 1]) for end in range(len(steps))]
        file = draw(st.sampled_from(files))
        slots = sorted(draw(st.lists(st.integers(0, len(file)), min_size=len(steps), max_size=len(steps))))
        for done, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            flags = draw(st.sampled_from(FLAGS))
            file.insert(slot + done, (session, position, draw(st.sampled_from(tracks)), *flags))
    return [file for file in files if file]


def expected(files: list[list[tuple]], config: PrepareConfig) -> dict[str, list[tuple[str, int]]]:
    """The sessions that `prepare` should write, as tracks with their skip strengths."""
    sessions = defaultdict(list)
    for file in files:
        for session, position, track, *flags in file:
            first, second, third = (flag.lower() in ("1", "true") for flag in flags[:3])
            sessions[session].append((position, track, 1 if first else 2 if second else 3 if third else 0))
    result = {}
    for session, plays in sessions.items():
        plays.sort()
        skipped = any(strength in (1, 2) for _, _, strength in plays)
        if len(plays) < config.min_length or len(plays) > (config.drop_longer or len(plays)):
            continue
        if skipped or not config.require_skip:
            result[session] = [(track, strength) for _, track, strength in plays[-(config.max_length or 0) :]]
    return result


def written(directory: Path) -> tuple[dict[str, list[tuple[str, int]]], Counter]:
    """The sessions and the play counts in a dataset directory."""
    vocabulary = pq.read_table(directory / "vocabulary.parquet").to_pylist()
    sessions = {
        session["session_id"]: [
            (vocabulary[row]["track_id"], strength)
            for row, strength in zip(session["tracks"], session["skips"], strict=True)
        ]
        for session in pq.read_table(directory / "sessions").to_pylist()
    }
    return sessions, Counter({entry["track_id"]: entry["count"] for entry in vocabulary})


def write(files: list[list[tuple]], folder: Path) -> None:
    for number, rows in enumerate(files):
        with (folder / f"log-{number}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([NAMES, *rows])


@settings(max_examples=60, deadline=None)
@given(files=logs(), options=st.sampled_from([{}, {"drop_longer": 5}, {"require_skip": True}, {"max_length": 3}]))
def test_prepare_equals_a_plain_grouping(files, options):
    with tempfile.TemporaryDirectory() as folder:
        write(files, Path(folder))
        config = PrepareConfig(input=(Path(folder),), output=Path(folder) / "data", **options)
        sessions = expected(files, config)
        if not sessions:
            return
        manifest = prepare(config)
        found, counts = written(Path(folder) / "data")
    plays = [track for session in sessions.values() for track, _ in session]
    assert found == sessions
    assert counts == Counter(plays)
    assert manifest.counts == {"sessions": len(sessions), "plays": len(plays), "tracks": len(set(plays))}


@settings(max_examples=25, deadline=None)
@given(files=logs(), random=st.randoms())
def test_sorted_rows_may_be_shuffled_over_files(files, random):
    rows = [row for file in files for row in file]
    random.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        write([part for part in (rows[::2], rows[1::2]) if part], Path(folder))
        config = PrepareConfig(input=(Path(folder),), output=Path(folder) / "data", sort=True)
        sessions = expected(files, config)
        if not sessions:
            return
        prepare(config)
        assert written(Path(folder) / "data")[0] == sessions
        assert Manifest.read(Path(folder) / "data").counts["sessions"] == len(sessions)
