"""Which sessions have the same tracks in the same order, told by 128 bits a session whichever shard they are in."""

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.datapipes.negatives import mix

DIGESTS = ("digest_low", "digest_high")
"""Columns of the staged sessions, uint64."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def track_hashes(engine: duckdb.DuckDBPyConnection) -> np.ndarray:
    """uint64 [2, num_tracks]: `md5_number_lower` and `_upper` of each id of the table `tracks`, by its code."""
    found = engine.sql("SELECT unhex(md5(id)) AS md5 FROM tracks ORDER BY code").to_arrow_table()["md5"]
    chunks = [chunk.cast(pa.binary(16)) for chunk in found.chunks if len(chunk)]
    halves = [np.frombuffer(of.buffers()[1], "<u8", 2 * len(of), 16 * of.offset) for of in chunks]
    return np.ascontiguousarray(np.concatenate([np.empty(0, np.uint64), *halves]).reshape(-1, 2)[:, ::-1].T)


def track_digests(tracks: pa.ListArray, hashes: np.ndarray) -> list[pa.Array]:
    """Returns `DIGESTS`: the sums, over a session's plays, of mixtures of the halves of the track's hash and the place.

    `tracks`: codes, a list a session, none of them empty. Other lists have other sums but for a chance of 2^-128.
    """
    lengths = tracks.value_lengths().to_numpy()
    starts = np.cumsum(lengths) - lengths
    places = (np.arange(lengths.sum()) - np.repeat(starts, lengths)).astype(np.uint64) * _GOLDEN
    codes = tracks.flatten().to_numpy()
    digests = []
    for of in hashes:
        values = mix(of[codes] + places)
        digests.append(pa.array(np.add.reduceat(values, starts) if len(starts) else values))
    return digests
