"""A dataset directory of random sessions, of any number, in the files that `prepare` writes."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.common.tables import write_table
from skipwise.datapipes.manifest import SESSIONS, SESSIONS_PER_ROW_GROUP, VOCABULARY
from skipwise.datapipes.prepare.split_files import SplitFiles

BLOCK = 32 * SESSIONS_PER_ROW_GROUP
"""Sessions after which the same plays come again, with other session ids: drawing them takes longer than writing."""


def write_dataset(folder: Path, num_tracks: int, num_sessions: int, longest: int) -> None:
    """Writes sessions of up to `longest` tracks, and a vocabulary with every track."""
    (folder / SESSIONS).mkdir(parents=True)
    block = min(num_sessions, BLOCK)
    store = MemoryStore(block, num_tracks, longest)
    plays = store.read(np.zeros(1, dtype=np.int64))
    offsets = pa.array(plays.offsets, pa.int32())
    columns = {
        "tracks": pa.ListArray.from_arrays(offsets, pa.array(plays.tracks, pa.int32())),
        "skips": pa.ListArray.from_arrays(offsets, pa.array(plays.skips)),
    }
    files = SplitFiles(folder / SESSIONS, "part", num_tracks, [])
    for first in range(0, num_sessions, block):
        count = min(block, num_sessions - first)
        numbers = pa.array(np.arange(first, first + count)).cast(pa.string())
        ids = pc.binary_join_element_wise("s", numbers, "")
        files.add(pa.table({"session_id": ids} | {name: of.slice(0, count) for name, of in columns.items()}))
    files.close()
    whole, rest = divmod(num_sessions, block)
    counts = whole * np.bincount(plays.tracks, minlength=num_tracks)
    counts += np.bincount(plays.tracks[: plays.offsets[rest]], minlength=num_tracks)
    tracks = [f"t{row:08}" for row in range(num_tracks)]
    vocabulary = {"track_id": tracks, "row": np.arange(num_tracks, dtype=np.int32), "count": counts}
    write_table(pa.table(vocabulary), folder / VOCABULARY, 1 << 20, compression="zstd")
    held = {
        "counts": {"sessions": num_sessions, "plays": files.plays, "tracks": num_tracks},
        "parts": files.parts,
        "checksums": files.checksums,
        "vocabulary_hash": hashlib.sha256("".join(f"{track}\n" for track in tracks).encode()).hexdigest(),
    }
    store.manifest.model_copy(update=held).write(folder)
