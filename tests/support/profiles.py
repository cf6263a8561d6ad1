"""Profiles of listeners for dataset directories of tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.datapipes.manifest import SESSIONS, Manifest
from skipwise.datapipes.session_files import PROFILE, Lists, checksum


def add_profiles(data: Path, profiles: list[list[int]], group_size: int = 7) -> None:
    """Adds a profile for each session of the dataset, rows in play order, as `prepare` would."""
    manifest, number = Manifest.read(data), 0
    checksums: dict[str, list[str]] = {}
    for part in sorted(manifest.parts):
        table = pq.read_table(data / SESSIONS / part)
        own = pa.array(profiles[number : number + len(table)], pa.list_(pa.int32()))
        pieces = [own[first : first + group_size] for first in range(0, len(own), group_size)]
        checksums[part] = [checksum(Lists.of(piece)) for piece in pieces]
        pq.write_table(table.append_column(PROFILE, own), data / SESSIONS / part, row_group_size=group_size)
        number += len(table)
    update = {"profile": max(map(len, profiles)), "profile_checksums": checksums}
    manifest.model_copy(update=update).write(data)


def random_profiles(sessions: int, tracks: int, most: int, seed: int = 0) -> list[list[int]]:
    """Some are empty, and one is full."""
    random = np.random.default_rng(seed)
    lengths = [most, *random.integers(0, most + 1, sessions - 1)]
    return [random.integers(0, tracks, length).tolist() for length in lengths]
