"""A table that searches as a trained one does, without training: tracks in clusters, and norms that vary.

Independent normal vectors would be a poor stand-in: in 128 dimensions they are all equally far apart, so that an
index has nothing to go by. Here a track lies near the centre of a cluster, along directions of falling weight; its
norm rises with the logarithm of its popularity, which falls as Zipf's law; and a query lies between a cluster's tracks.
Cosines of neighbours and spread of norms were set by eye to those of a table trained on 8,000 real sessions. It stays
a stand-in: recall on a real table is what `index` prints for it.

Shape legend: N rows, S queries, D width, C clusters.
"""

import numpy as np

_TRACKS_A_CLUSTER = 50
_TRACK_NOISE, _QUERY_NOISE = 0.7, 1.0


def clustered(tracks: int, queries: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(table float32 [N, D], queries float32 [S, D])."""
    random = np.random.default_rng(seed)
    weight_D = (1 / np.sqrt(1 + np.arange(dim) / 8)).astype(np.float32)
    centres_CD = _directions(random, max(1, tracks // _TRACKS_A_CLUSTER), weight_D)
    table_ND = _around(random, centres_CD, tracks, weight_D, _TRACK_NOISE)
    popularity_N = 1 / (1 + random.permutation(tracks))
    table_ND *= (2 + 0.2 * np.log(popularity_N * tracks)).astype(np.float32)[:, None]
    return table_ND, 5 * _around(random, centres_CD, queries, weight_D, _QUERY_NOISE)


def _around(
    random: np.random.Generator, centres_CD: np.ndarray, count: int, weight_D: np.ndarray, noise: float
) -> np.ndarray:
    """Unit vectors near centres drawn uniformly."""
    vectors = _directions(random, count, weight_D)
    vectors *= noise
    vectors += centres_CD[random.integers(0, len(centres_CD), count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _directions(random: np.random.Generator, count: int, weight_D: np.ndarray) -> np.ndarray:
    vectors = random.standard_normal((count, len(weight_D)), dtype=np.float32) * weight_D
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
