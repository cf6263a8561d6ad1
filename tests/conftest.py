"""Fixtures: small dataset directories, made here, so that no test depends on data from elsewhere."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.datapipes.manifest import SESSIONS, Manifest

Session = tuple[list[int], list[int]]
"""Track rows in play order and their skip strengths."""


def write_dataset(
    folder: Path,
    sessions: list[Session],
    tracks: int,
    group_size: int = 7,
    parts: int = 2,
    split: dict[str, int] | None = None,
) -> Path:
    """A dataset directory (docs/architecture.md, "Dataset directory") with `group_size` sessions a row group.

    `split` gives the number of sessions of test, train and validation, which lie in this order, that of the files.
    """
    (folder / SESSIONS).mkdir(parents=True)
    identities = [f"t_{row:05}" for row in range(tracks)]
    counts = np.bincount([row for rows, _ in sessions for row in rows], minlength=tracks)[:tracks]
    vocabulary = {"track_id": identities, "row": pa.array(range(tracks), pa.int32()), "count": counts}
    pq.write_table(pa.table(vocabulary), folder / "vocabulary.parquet")
    sizes = dict(sorted((split or {"part": len(sessions)}).items()))
    numbers_of = dict(zip(sizes, np.split(np.arange(len(sessions)), np.cumsum([*sizes.values()])), strict=False))
    rows_of = {name: [row for number in numbers for row in sessions[number][0]] for name, numbers in numbers_of.items()}
    split_parts = {name: [f"{name}-{part:05}.parquet" for part in range(parts)] for name in sizes}
    names = [name for files in split_parts.values() for name in files]
    pieces = [piece for numbers in numbers_of.values() for piece in np.array_split(numbers, parts)]
    part_sizes = {}
    for name, numbers in zip(names, pieces, strict=True):
        chosen = [sessions[number] for number in numbers]
        part_sizes[name] = len(chosen)
        columns = {
            "session_id": [f"s_{number:05}" for number in numbers],
            "tracks": pa.array([rows for rows, _ in chosen], pa.list_(pa.int32())),
            "skips": pa.array([skips for _, skips in chosen], pa.list_(pa.int8())),
        }
        pq.write_table(pa.table(columns), folder / SESSIONS / name, row_group_size=group_size)
    lengths = [len(rows) for rows, _ in sessions]
    Manifest(
        counts={"sessions": len(sessions), "plays": sum(lengths), "tracks": tracks},
        session_lengths={"min": min(lengths), "max": max(lengths)},
        skip_share=0.5,
        context_columns=[],
        parts=part_sizes,
        vocabulary_hash=hashlib.sha256("".join(f"{name}\n" for name in identities).encode()).hexdigest(),
        sources=[],
        options={},
        dropped_sessions={},
        dropped_rows={},
        versions={},
        split_parts=split_parts if split else {},
        split_counts={
            name: {
                "sessions": split[name],
                "plays": len(rows_of[name]),
                "tracks_not_in_train": len({*rows_of[name]} - {*rows_of["train"]}),
            }
            for name in split or ()
        },
    ).write(folder)
    return folder


def random_sessions(count: int, tracks: int, longest: int = 12, seed: int = 0) -> list[Session]:
    """Random sessions of 3 to `longest` tracks; every third one walks along neighbouring rows, so models can learn."""
    random = np.random.default_rng(seed)
    sessions = []
    for number in range(count):
        length = int(random.integers(3, longest + 1))
        rows = random.integers(0, tracks, length)
        if number % 3:
            rows = (rows[0] + np.arange(length)) % tracks
        sessions.append((rows.tolist(), random.integers(0, 4, length).tolist()))
    return sessions


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that no process is left alone with it at the end.

    Tests marked `gpu` need a card. SKIPWISE_GPU_TESTS=cpu runs them without one, to see that the tests themselves work.
    """
    items.sort(key=lambda item: item.path.stem not in ("test_readme", "test_killed"))
    if not torch.cuda.is_available() and os.environ.get("SKIPWISE_GPU_TESTS") != "cpu":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none here"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws from torch, and how exact its products are, is the same whichever tests run before it."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """`process_group` makes a handler for the stderr of the moment, which a test that captures its own then closes."""
    logger = logging.getLogger("skipwise")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """`make_dataset(sessions, tracks, group_size, parts)` writes a directory and returns it."""
    made = iter(range(1000))
    return lambda *arguments, **options: write_dataset(tmp_path / f"data-{next(made)}", *arguments, **options)
