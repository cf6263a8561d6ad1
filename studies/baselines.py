"""Baselines that every model must beat: the most played tracks, and what most often followed the last one.

Both are ranked as models are: the same targets and candidates, each rank measures its share of the sessions.
Shape legend: B targets, S positions of whole sessions, N tracks, C candidates.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from skipwise.common.distributed import barrier, rank, sum_ranks, world_size
from skipwise.common.files import read_json, write_json
from skipwise.datapipes.batch import EvaluationBatch
from skipwise.datapipes.counts import train_counts, transitions
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.ranking import Counts
from skipwise.training.build import HeldOut, evaluation_loader, training_data
from skipwise.training.config import PROTOCOLS, Protocol, RunConfig
from skipwise.training.evaluation.evaluator import measure_ranks

_SCORES = 1 << 24
"""Scores of one block."""


class Popularity:
    """Scores a track by its training plays."""

    label = "popularity"

    def __init__(self, store: SessionStore, held_out: int):
        self.num_tracks = store.num_tracks
        counts = train_counts(store, rank(), world_size(), held_out)
        self._scores_N = sum_ranks(torch.from_numpy(counts)).numpy().astype(np.float32)

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N]: the scores of all tracks after these plays (rows in play order, -1 is padding)."""
        return np.tile(self._scores_N, (len(history_BS), 1))


class Markov:
    """Scores a track by how often it followed the last one in training."""

    label = "first-order Markov chain"

    def __init__(self, store: SessionStore, held_out: int):
        self.num_tracks = store.num_tracks
        keys, counts = transitions(store, held_out)
        pairs = np.divmod(keys, self.num_tracks)
        self._counts = csr_array((counts.astype(np.float32), pairs), shape=(self.num_tracks, self.num_tracks))

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N]: the scores of all tracks after these plays (rows in play order, -1 is padding)."""
        last_B = history_BS[np.arange(len(history_BS)), (history_BS >= 0).sum(axis=1) - 1]
        scores_BN: np.ndarray = self._counts[last_B].toarray()
        return scores_BN


Baseline = Popularity | Markov
BASELINES: dict[str, type[Popularity] | type[Markov]] = {"popularity": Popularity, "markov": Markov}


def measure_baseline(
    baseline: type[Popularity] | type[Markov], config: RunConfig, store: SessionStore, folder: Path
) -> None:
    """Writes `metrics.json` and `ranks/` of a baseline's test into `folder`, as a run keeps them.

    It is fitted to what a run of `config` is trained on, the refit included.
    """
    fitted = baseline(*training_data(store, config.train.refit))
    held_out = HeldOut.of(config.evaluate, store, "test")
    loader = evaluation_loader(config, held_out, PROTOCOLS, "test", config.evaluate.sessions)
    counts_of = partial(_counts, fitted)
    found = measure_ranks(loader.epoch(0), counts_of, PROTOCOLS, "test", store.num_tracks, folder)
    if rank() == 0:
        results = {protocol: {"test": values} for protocol, values in found.items()}
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
        "refit": config.train.refit,
    }


def _counts(baseline: Baseline, batch: EvaluationBatch) -> dict[Protocol, Counts]:
    """Of the batch's targets, by every protocol."""
    target_B, history_BS, candidates_BC = (
        values.numpy() for values in (batch.target_B, batch.history_BS, batch.candidates_BC)
    )
    found = {protocol: np.zeros((2, len(target_B)), dtype=np.int64) for protocol in PROTOCOLS}
    real = np.flatnonzero(target_B >= 0)
    for part_B in np.array_split(real, max(len(real) * baseline.num_tracks // _SCORES, 1)):
        scores_BN = baseline.scores(history_BS[part_B])
        own_B = np.arange(len(part_B)), target_B[part_B]
        above_BN, ties_BN = (compare(scores_BN, scores_BN[own_B][:, None]) for compare in (np.greater, np.equal))
        ties_BN[own_B] = False
        session_P, column_P = np.nonzero(history_BS[part_B] >= 0)
        fresh_BN = np.ones_like(above_BN)
        fresh_BN[session_P, history_BS[part_B][session_P, column_P]] = False
        rows_BC = candidates_BC[part_B]
        for place, values_BN in enumerate((above_BN, ties_BN)):
            drawn_BC = np.take_along_axis(values_BN, np.maximum(rows_BC, 0), axis=1) & (rows_BC >= 0)
            found["full"][place, part_B] = values_BN.sum(axis=1)
            found["served"][place, part_B] = (values_BN & fresh_BN).sum(axis=1)
            found["paper"][place, part_B] = drawn_BC.sum(axis=1)
    return {protocol: Counts(*torch.from_numpy(counts)) for protocol, counts in found.items()}
