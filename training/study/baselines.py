"""What every model must beat: the most played tracks, and what most often followed the last one.

Both are ranked as models are: the same sessions and candidates, ties against them, each rank its share of sessions.
Shape legend: B sessions, S positions of whole sessions, C candidates, N tracks.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import MetricCollection

from datapipes.batch import EvaluationBatch
from datapipes.counts import train_counts, transitions
from datapipes.sessions import SessionStore
from training.build import evaluation_loader
from training.config import RunConfig
from training.distributed import barrier, rank, ranks
from training.evaluate import PROTOCOLS, candidate_counts
from training.metrics import RankMetrics, SkipRanking
from training.records import RankWriter
from training.run import read_json, write_json


class Popularity:
    """Scores a track by its training plays."""

    label = "popularity"

    def __init__(self, store: SessionStore):
        counts = torch.from_numpy(train_counts(store, rank(), ranks()))
        if ranks() > 1:
            dist.all_reduce(counts)
        self.counts_N = counts.numpy().astype(np.float64)

    def of(self, last_B: np.ndarray, rows_BC: np.ndarray) -> np.ndarray:
        """float64 [B, C]: scores of these tracks for sessions that played `last_B` last."""
        return self.counts_N[rows_BC]

    def all(self, last_B: np.ndarray) -> np.ndarray:
        """float64 [B, N]: scores of every track, the caller's to change."""
        return np.tile(self.counts_N, (len(last_B), 1))


class Markov:
    """Scores a track by how often it followed the last one in training; popularity breaks ties."""

    label = "first-order Markov chain"

    def __init__(self, store: SessionStore):
        self._tracks = store.tracks
        self._keys, self._counts = transitions(store)
        counts_N = Popularity(store).counts_N
        self._below_one_N = counts_N / (counts_N.max() + 1)

    def of(self, last_B: np.ndarray, rows_BC: np.ndarray) -> np.ndarray:
        """float64 [B, C]: scores of these tracks for sessions that played `last_B` last."""
        wanted_BC = last_B[:, None] * self._tracks + rows_BC
        places_BC = np.minimum(np.searchsorted(self._keys, wanted_BC), len(self._keys) - 1)
        return self._below_one_N[rows_BC] + self._counts[places_BC] * (self._keys[places_BC] == wanted_BC)

    def all(self, last_B: np.ndarray) -> np.ndarray:
        """float64 [B, N]: scores of every track, the caller's to change."""
        scores_BN = np.tile(self._below_one_N, (len(last_B), 1))
        for row, last in enumerate(last_B):
            first, end = np.searchsorted(self._keys, [last * self._tracks, (last + 1) * self._tracks])
            scores_BN[row, self._keys[first:end] % self._tracks] += self._counts[first:end]
        return scores_BN


BASELINES = {"popularity": Popularity, "markov": Markov}


def measure_baseline(name: str, config: RunConfig, store: SessionStore, folder: Path) -> None:
    """Writes `metrics.json` and `ranks/` of a baseline's test into `folder`, as a run has them."""
    baseline = BASELINES[name](store)
    results = {protocol: {"test": _measure(baseline, protocol, config, store, folder)} for protocol in PROTOCOLS}
    if rank() == 0:
        write_json(folder / "metrics.json", results | {"of": _of(config, store)})
    barrier()


def is_measured(folder: Path, config: RunConfig, store: SessionStore) -> bool:
    """Whether `measure_baseline` has finished there, with these data and this evaluation."""
    file = folder / "metrics.json"
    return file.exists() and read_json(file, "metrics of a baseline").get("of") == _of(config, store)


def _of(config: RunConfig, store: SessionStore) -> dict[str, Any]:
    return {"vocabulary_hash": store.manifest.vocabulary_hash, "evaluate": asdict(config.evaluate)}


def _measure(
    baseline: Popularity | Markov, protocol: str, config: RunConfig, store: SessionStore, folder: Path
) -> dict[str, float | int]:
    metrics = MetricCollection([RankMetrics(), SkipRanking()])
    with RankWriter(folder, protocol, "test") as record:
        for batch in evaluation_loader(config, store, protocol, "test", config.evaluate.sessions).epoch(0):
            real_B = batch.target_B >= 0
            candidates_B = candidate_counts(batch, protocol, store.tracks, config.evaluate.filter_history)
            columns = {
                "session": batch.sessions.session_B,
                "rank": _ranks(baseline, batch, protocol, config.evaluate.filter_history),
                "candidates": candidates_B,
                "skips": batch.target_skips_B,
                "position": batch.position_B,
                "target": batch.target_B,
            }
            columns = {name: values[real_B] for name, values in columns.items()}
            record.write(**columns)
            metrics.update(**{name: columns[name] for name in ("rank", "candidates", "skips")})
    return metrics.compute()


def _ranks(baseline: Popularity | Markov, batch: EvaluationBatch, protocol: str, filter_history: bool) -> Tensor:
    """int64 [B]."""
    target_B, history_BS = batch.target_B.numpy(), batch.history_BS.numpy()
    last_B = history_BS[np.arange(len(target_B)), np.clip(batch.position_B.numpy() - 1, 0, history_BS.shape[1] - 1)]
    last_B = np.maximum(last_B, 0)
    target_scores_B1 = baseline.of(last_B, target_B[:, None])
    if protocol == "uniform":
        return torch.from_numpy(1 + (baseline.of(last_B, batch.candidates_BC.numpy()) >= target_scores_B1).sum(axis=1))
    found_B = np.ones(len(target_B), dtype=np.int64)
    for session in range(len(target_B)):
        scores_N = baseline.all(last_B[session : session + 1])[0]
        scores_N[target_B[session]] = -np.inf
        if filter_history:
            heard = history_BS[session]
            scores_N[heard[heard >= 0]] = -np.inf
        found_B[session] += (scores_N >= target_scores_B1[session]).sum()
    return torch.from_numpy(found_B)
