"""Measures baselines beside models.

All are ranked as models are: the same targets and candidates, each rank measures its share of the sessions.
Shape legend: B targets, S positions of whole sessions, N tracks, C candidates.
"""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from typing import Protocol as TypingProtocol

import numpy as np
import torch

from skipwise.common.distributed import barrier, logger, rank
from skipwise.common.files import read_json, write_json
from skipwise.datapipes.batch import EvaluationBatch
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.ranking import Counts
from skipwise.studies.baselines.item_neighbours import ItemKNN
from skipwise.studies.baselines.markov import Markov
from skipwise.studies.baselines.popularity import Popularity, PopularityInSession, PopularityOfListener
from skipwise.studies.baselines.session_neighbours import STAN, VSKNN
from skipwise.training.build import HeldOut, cold_tracks, evaluation_loader, training_data
from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.evaluation.measure_ranks import Ranked, measure_ranks
from skipwise.training.run.directory import RunDirectory

FOLDER = "baselines"
"""Of a run's directory."""
_SCORES = 1 << 24
"""Scores of one block."""


class Baseline(TypingProtocol):
    """A baseline fitted to the sessions of a store, without the last `held_out` plays of each."""

    name: str
    """Of its folder among a table's runs."""
    label: str

    def __init__(self, store: SessionStore, held_out: int): ...

    def scores(self, history_BS: np.ndarray) -> np.ndarray:
        """float32 [B, N]: the scores of all tracks after these plays, int64 rows in play order, padded with -1."""


BASELINES: tuple[type[Baseline], ...] = (Popularity, PopularityInSession, Markov, ItemKNN, VSKNN, STAN)


def baselines_of(store: SessionStore) -> tuple[type[Baseline], ...]:
    """Those that a dataset has; one with profiles of listeners has another one."""
    return (*BASELINES, PopularityOfListener) if store.manifest.profile else BASELINES


def measure_baseline(baseline: type[Baseline], config: RunConfig, store: SessionStore, folder: Path) -> None:
    """Writes `metrics.json` and `ranks/` of a baseline's test into `folder`, as a run keeps them.

    It is fitted to what a run of `config` is trained on, the refit included.
    """
    most = store.manifest.profile if issubclass(baseline, PopularityOfListener) else 0
    store, config = store.profiling(most), replace(config, data=replace(config.data, profile=most))
    fitted = baseline(*training_data(store, config.train.refit, config.data.hold_out_tracks))
    held_out = HeldOut.of(config.evaluate, store, "test")
    loader = evaluation_loader(config, held_out, PROTOCOLS, "test", config.evaluate.sessions)
    ranks_of = partial(_ranked, fitted, store.num_tracks)
    cold_N = cold_tracks(config, store, config.train.refit)
    found = measure_ranks(loader.epoch(0), ranks_of, PROTOCOLS, "test", store.num_tracks, folder, cold_N)
    if rank() == 0:
        results = {protocol: {"test": values} for protocol, values in found.items()}
        write_json(folder / "metrics.json", results | {"of": _identity(config, store)})
    barrier()


def is_measured(folder: Path, config: RunConfig, store: SessionStore) -> bool:
    """Whether `measure_baseline` has finished there, on the same data and with the same evaluation."""
    file, wanted = folder / "metrics.json", _identity(config, store)
    found = read_json(file, "metrics of a baseline").get("of") if file.exists() else None
    return found in (wanted, {name: value for name, value in wanted.items() if name != "data_hash"})  # or an older one


def measured_in(baseline: type[Baseline], run: Path, config: RunConfig, store: SessionStore) -> Path | None:
    """Where a baseline was measured on the test of a run of `config`: in its directory, or beside it by `table`."""
    beside = run.parent / f"{baseline.name}{'-refit' if config.train.refit else ''}"
    return next((one for one in (run / FOLDER / baseline.name, beside) if is_measured(one, config, store)), None)


def measure_missing(run: RunDirectory) -> None:
    """Measures the run's test by each baseline by which it has not been measured, on all ranks, and says how well."""
    store = run.open_store()
    for baseline in baselines_of(store):
        if measured_in(baseline, run.path, run.config, store) is None:
            measure_baseline(baseline, run.config, store, run.path / FOLDER / baseline.name)
        folder = measured_in(baseline, run.path, run.config, store)
        found = read_json(folder / "metrics.json", "metrics of a baseline") if folder else {}
        hits = ", ".join(f"{protocol} {found[protocol]['test']['hr@10']:.4f}" for protocol in PROTOCOLS)
        logger.info(f"{baseline.label}: HR@10 of the test by {hits}")


def _identity(config: RunConfig, store: SessionStore) -> dict[str, Any]:
    manifest = store.manifest
    return {
        "vocabulary_hash": manifest.vocabulary_hash,
        "counts": manifest.counts,
        "data_hash": manifest.data_hash,
        "evaluate": asdict(config.evaluate),
        "refit": config.train.refit,
        **({"hold_out_tracks": config.data.hold_out_tracks} if config.data.hold_out_tracks else {}),
        **({"profile_hash": manifest.profile_hash} if manifest.profile else {}),
    }


def _ranked(baseline: Baseline, num_tracks: int, batch: EvaluationBatch) -> Ranked:
    """Of the batch's targets, by every protocol."""
    target_B, history_BS, candidates_BC, profile_BK = (
        values.numpy() for values in (batch.target_B, batch.history_BS, batch.candidates_BC, batch.profile_rows_BK)
    )
    found = {protocol: np.zeros((2, len(target_B)), dtype=np.int64) for protocol in PROTOCOLS}
    real, size = np.flatnonzero(target_B >= 0), max(_SCORES // num_tracks, 1)
    for first in range(0, len(real), size):
        part_B = real[first : first + size]
        # Profiles are read for the listener's popularity alone.
        scores_BN = baseline.scores(np.concatenate([history_BS[part_B], profile_BK[part_B]], axis=1))
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
    return Ranked({protocol: Counts(*torch.from_numpy(counts)) for protocol, counts in found.items()})
