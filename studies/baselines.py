"""Baselines that every model must beat: the most played tracks, and what most often followed the last one.

Both are ranked as models are: the same sessions and candidates, ties count against the target, each rank measures its
share of the sessions.
Shape legend: B sessions, S positions of whole sessions, C candidates, N tracks, F followers of the last tracks.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipwise.common.distributed import barrier, rank, sum_ranks, world_size
from skipwise.common.files import read_json, write_json
from skipwise.datapipes.batch import EvaluationBatch
from skipwise.datapipes.counts import train_counts, transitions
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import evaluation_loader
from skipwise.training.config import PROTOCOLS, Protocol, RunConfig
from skipwise.training.evaluation.evaluator import measure_ranks
from skipwise.training.evaluation.records import TargetRankWriter


class Popularity:
    """Scores a track by its training plays."""

    label = "popularity"

    def __init__(self, store: SessionStore):
        self.counts_N = sum_ranks(torch.from_numpy(train_counts(store, rank(), world_size()))).numpy()
        self._ascending_N = np.sort(self.counts_N)

    def scores(self, last_B: np.ndarray, rows_BC: np.ndarray) -> np.ndarray:
        """int64 [B, C]: the scores of these tracks for sessions whose last track is `last_B`."""
        return self.counts_N[rows_BC]

    def count_at_least(self, last_B: np.ndarray, score_B: np.ndarray) -> np.ndarray:
        """int64 [B]: how many tracks of the whole catalogue score at least `score_B`."""
        return len(self._ascending_N) - np.searchsorted(self._ascending_N, score_B)


class Markov:
    """Scores a track by how often it followed the last one in training; popularity breaks ties."""

    label = "first-order Markov chain"

    def __init__(self, store: SessionStore):
        self._tracks, self._popularity = store.num_tracks, Popularity(store)
        self._keys, counts = transitions(store)
        # One transition outweighs any popularity. int64 holds the sum up to three billion plays.
        self._weights = counts * (self._popularity.counts_N.max() + 1)

    def scores(self, last_B: np.ndarray, rows_BC: np.ndarray) -> np.ndarray:
        """int64 [B, C]: the scores of these tracks for sessions whose last track is `last_B`."""
        key_BC = last_B[:, None] * self._tracks + rows_BC
        place_BC = np.searchsorted(self._keys, key_BC)
        found_BC = np.append(self._keys, -1)[place_BC] == key_BC
        return self._popularity.counts_N[rows_BC] + np.append(self._weights, 0)[place_BC] * found_BC

    def count_at_least(self, last_B: np.ndarray, score_B: np.ndarray) -> np.ndarray:
        """int64 [B]: how many tracks of the whole catalogue score at least `score_B`.

        Counts those that do by popularity alone, and the followers of the last track that do by their transitions: the
        work grows with the number of followers, not with the catalogue.
        """
        first_B, end_B = (np.searchsorted(self._keys, (last_B + more) * self._tracks) for more in (0, 1))
        followers_B = end_B - first_B
        session_F = np.repeat(np.arange(len(last_B)), followers_B)
        place_F = np.arange(len(session_F)) + np.repeat(end_B - followers_B.cumsum(), followers_B)
        plays_F = self._popularity.counts_N[self._keys[place_F] % self._tracks]
        lifted_F = (plays_F < score_B[session_F]) & (plays_F + self._weights[place_F] >= score_B[session_F])
        return self._popularity.count_at_least(last_B, score_B) + np.bincount(
            session_F[lifted_F], minlength=len(last_B)
        )


Baseline = Popularity | Markov
BASELINES: dict[str, type[Popularity] | type[Markov]] = {"popularity": Popularity, "markov": Markov}


def measure_baseline(name: str, config: RunConfig, store: SessionStore, folder: Path) -> None:
    """Writes `metrics.json` and `ranks/` of a baseline's test into `folder`, as a run keeps them."""
    baseline = BASELINES[name](store)
    results = {protocol: {"test": _measure(baseline, protocol, config, store, folder)} for protocol in PROTOCOLS}
    if rank() == 0:
        write_json(folder / "metrics.json", results | {"of": _identity(config, store)})
    barrier()


def is_measured(folder: Path, config: RunConfig, store: SessionStore) -> bool:
    """Whether `measure_baseline` has finished there, on the same data and with the same evaluation."""
    file = folder / "metrics.json"
    return file.exists() and read_json(file, "metrics of a baseline").get("of") == _identity(config, store)


def _identity(config: RunConfig, store: SessionStore) -> dict[str, Any]:
    manifest = store.manifest
    return {
        "vocabulary_hash": manifest.vocabulary_hash,
        "counts": manifest.counts,
        "evaluate": asdict(config.evaluate),
    }


def _measure(
    baseline: Baseline, protocol: Protocol, config: RunConfig, store: SessionStore, folder: Path
) -> dict[str, float | int]:
    loader = evaluation_loader(config, store, protocol, "test", config.evaluate.sessions)
    ranks_of = partial(_ranks, baseline, protocol=protocol, filter_history=config.evaluate.filter_history)
    with TargetRankWriter(folder, protocol, "test") as record:
        return measure_ranks(loader.epoch(0), ranks_of, protocol, config.evaluate, store.num_tracks, record)


def _ranks(baseline: Baseline, batch: EvaluationBatch, protocol: Protocol, filter_history: bool) -> Tensor:
    """int64 [B]."""
    target_B, history_BS = batch.target_B.numpy(), batch.history_BS.numpy()
    last_at_B = np.clip(batch.position_B.numpy() - 1, 0, history_BS.shape[1] - 1)
    last_B = np.maximum(history_BS[np.arange(len(target_B)), last_at_B], 0)
    score_B = baseline.scores(last_B, target_B[:, None])[:, 0]
    if protocol == "uniform":
        counted_BC = baseline.scores(last_B, batch.candidates_BC.numpy()) >= score_B[:, None]
        return torch.from_numpy(1 + counted_BC.sum(axis=1))
    excluded_BX = target_B[:, None]
    if filter_history:
        excluded_BX = np.sort(np.concatenate([excluded_BX, history_BS], axis=1), axis=1)
    counted_BX = (excluded_BX >= 0) & (baseline.scores(last_B, np.maximum(excluded_BX, 0)) >= score_B[:, None])
    counted_BX[:, 1:] &= excluded_BX[:, 1:] != excluded_BX[:, :-1]
    return torch.from_numpy(1 + baseline.count_at_least(last_B, score_B) - counted_BX.sum(axis=1))
