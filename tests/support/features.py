"""Features of tracks for dataset directories of tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.feature_table import read_table
from skipwise.datapipes.prepare.staging import connect
from skipwise.datapipes.prepare.write_features import write_features

KNOWN = ("genre", "tags", "year", "audio")


def add_features(data: Path, rows: list[dict], **options) -> Path:
    """Adds the columns of these rows, each with a `track_id`, as `prepare --track-features` does."""
    file = data.parent / f"{data.name}-features.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    config = PrepareConfig(input=(file,), output=data, track_features=file, track="track_id", **options)
    with connect(config, data.parent) as engine:
        write_features(engine, config, read_table(engine, config), data, Manifest.read(data))
    return data


def random_rows(tracks: int, seed: int = 0) -> list[dict]:
    """Of every fifth track nothing is known, and of others not all."""
    random = np.random.default_rng(seed)
    rows = []
    for row in range(tracks):
        rows.append(
            {
                "track_id": f"t_{row:05}",
                "genre": None if row % 4 == 0 else f"genre {random.integers(6)}",
                "tags": [f"tag {tag}" for tag in random.choice(9, random.integers(4), replace=False)],
                "year": None if row % 7 == 0 else int(random.integers(1960, 2026)),
                "audio": None if row % 3 == 0 else random.standard_normal(3).tolist(),
            }
        )
    return [row for number, row in enumerate(rows) if number % 5]
