"""What is known of the tracks of a synthetic log: where they stand in its planted structure, with noise.

Shape legend: N tracks.
"""

import numpy as np
import pyarrow as pa

HARMONICS = 4
"""`audio` has cosine and sine of so many multiples of a track's angle in each of its cluster's two playlists."""
NOISE = 0.1
"""Deviation of what is added to them."""
UNKNOWN = 0.1
"""Share of the tracks without a genre."""
FAMILIES, MOODS = 7, 20


def invented_features(
    seed: int, ids: pa.Array, artists: pa.Array, cluster_N: np.ndarray, places_2N: np.ndarray
) -> pa.Table:
    """One row a track. `cluster_N`: its taste cluster; `places_2N`: its place in each playlist, in [0, 1).

    `genre` is the cluster; `tags` a family of clusters and a mood that says nothing; `year` depends on the cluster;
    `audio` says which track follows which.
    """
    random, count = np.random.default_rng([seed, 3]), len(cluster_N)
    angles = 2 * np.pi * places_2N[:, None] * np.arange(1, HARMONICS + 1)[:, None]
    audio = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).reshape(-1, count).T
    audio = (audio + NOISE * random.standard_normal(audio.shape)).astype(np.float32)
    genres = pa.array(np.char.add("genre ", cluster_N.astype(str)), pa.string(), mask=random.random(count) < UNKNOWN)
    family = np.char.add("family ", (cluster_N % FAMILIES).astype(str))
    mood = np.char.add("mood ", random.integers(MOODS, size=count).astype(str))
    tags = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 2 * count + 1, 2), pa.int32()), pa.array(np.stack([family, mood], axis=1).ravel())
    )
    year = 1960 + (cluster_N * 37) % 60 + random.integers(5, size=count)
    width = pa.array(np.arange(0, audio.size + 1, audio.shape[1]), pa.int32())
    return pa.table(
        {
            "track_id": ids,
            "genre": genres,
            "artist": artists,
            "tags": tags,
            "year": pa.array(year, pa.int32()),
            "audio": pa.ListArray.from_arrays(width, pa.array(audio.ravel())),
        }
    )
