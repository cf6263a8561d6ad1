"""Random data without training: plays by Zipf's law, sessions in memory, a table in clusters.

Shape legend: N rows, S queries, D width, C clusters.
"""

import numpy as np

from skipwise.benchmarks.harness.config import SEED, SHORTEST
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.sessions import SessionStore, _Window

_TRACKS_PER_CLUSTER = 50
_TRACK_NOISE, _QUERY_NOISE = 0.7, 1.0


class Zipf:
    """Draws track rows by Zipf's law, exponent 1. Popular rows are spread over the table, and so over ranks."""

    def __init__(self, num_tracks: int, random: np.random.Generator):
        self._row_of_rank = random.permutation(num_tracks)
        self._share = np.cumsum(1 / np.arange(1, num_tracks + 1))

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """int64 [count]."""
        return self._row_of_rank[np.searchsorted(self._share, random.random(count) * self._share[-1])]


class MemoryStore(SessionStore):
    """Random sessions behind the interface of a dataset directory, as one row group."""

    def __init__(self, num_sessions: int, num_tracks: int, longest: int, seed: int = SEED):
        random = np.random.default_rng(seed)
        lengths = random.integers(SHORTEST, longest + 1, num_sessions)
        plays = int(lengths.sum())
        self._window = _Window(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            tracks=Zipf(num_tracks, random).draw(plays, random),
            skips=random.integers(0, 4, plays).astype(np.int8),
            numbers=np.arange(num_sessions),
        )
        self.num_tracks = num_tracks
        self.group_sizes = np.array([num_sessions])
        self.manifest = Manifest(
            counts={"sessions": num_sessions, "plays": plays, "tracks": num_tracks},
            session_lengths={"min": SHORTEST, "max": longest},
            skip_share=0.5,
            context_columns=[],
            parts={},
            vocabulary_hash="0" * 64,
            sources=[],
            options={},
            dropped_sessions={},
            dropped_rows={},
            versions={},
        )

    def __len__(self) -> int:
        return len(self._window.numbers)

    def read(self, groups: np.ndarray) -> _Window:
        """All sessions: there is one group."""
        return self._window


def clustered(num_tracks: int, num_queries: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(table float32 [N, D], queries float32 [S, D]): searching it is like searching a trained table.

    Independent normal vectors would be a poor model of one: in 128 dimensions they are all equally far apart, and an
    index finds no structure. Here a track is near the centre of a cluster, along directions of falling weight; its norm
    rises with the logarithm of its popularity, which follows Zipf's law; and a query is between a cluster's tracks.
    Cosines of neighbours and spread of norms were set by eye to those of a table trained on 8,000 real sessions. Recall
    on a real table is what `skipwise index` prints for it.
    """
    random = np.random.default_rng(SEED)
    weight_D = (1 / np.sqrt(1 + np.arange(dim) / 8)).astype(np.float32)
    centres_CD = _directions(random, max(1, num_tracks // _TRACKS_PER_CLUSTER), weight_D)
    table_ND = _around(random, centres_CD, num_tracks, weight_D, _TRACK_NOISE)
    popularity_N = 1 / (1 + random.permutation(num_tracks))
    table_ND *= (2 + 0.2 * np.log(popularity_N * num_tracks)).astype(np.float32)[:, None]
    return table_ND, 5 * _around(random, centres_CD, num_queries, weight_D, _QUERY_NOISE)


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
