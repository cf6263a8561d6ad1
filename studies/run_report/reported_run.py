"""A run as the report reads it: its directory, curves, ranks, data and a sample of its table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipwise.common.errors import UserError
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines.measuring import baselines_of, measured_in
from skipwise.studies.comparison import Grouping
from skipwise.studies.curves import Curve, read_curves
from skipwise.studies.groupings import groupings
from skipwise.studies.run_report.table_sample import Sample, read_sample
from skipwise.training.build import training_data
from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.evaluation.evaluator import measurable
from skipwise.training.evaluation.metrics import NOT_ELIGIBLE
from skipwise.training.evaluation.records import RANKS, TargetRanks, has_target_ranks, read_target_ranks
from skipwise.training.run.directory import RunDirectory


@dataclass(frozen=True)
class ReportedRun:
    """Everything the report shows of a run. A missing part is None or empty; a damaged one is a `UserError`."""

    label: str
    """Its name in pictures and tables: A or B."""
    directory: RunDirectory
    recipe_config: RunConfig | None
    """The config of the run's recipe; None where no recipe has that name."""
    train: dict[str, float] | None
    """Epochs, best epoch, seconds and sessions/s; None before training has ended."""
    curves: dict[str, Curve]
    """By kind of the lines in `metrics.jsonl`; empty arrays for a kind without lines."""
    ranks: dict[tuple[str, str], TargetRanks]
    """By protocol and split, where evaluated."""
    baselines: dict[str, dict[str, TargetRanks]]
    """By label and protocol the test of each baseline that was measured in the run or, by `table`, beside it."""
    store: SessionStore | None
    store_error: str
    """Why there is no `store`."""
    plays_N: np.ndarray | None
    """int64 [tracks]: training plays; None without a store."""
    groupings: Grouping
    """Empty without a store."""
    sample: Sample | None


def read_run(path: str, label: str, config_of: Callable[[str], RunConfig | None]) -> ReportedRun:
    """Reads a run; raises `UserError` for a directory, or a part of it, that train did not write."""
    directory = RunDirectory.open(path)
    store, store_error = _open_store(directory)
    plays_N = None
    if store is not None:
        sessions, held_out = training_data(store, hold_out_tracks=directory.config.data.hold_out_tracks)
        plays_N = train_counts(sessions, held_out=held_out)
    return ReportedRun(
        label=label,
        directory=directory,
        recipe_config=config_of(directory.record.recipe),
        train=_train_metrics(directory),
        curves=read_curves(directory.path / "metrics.jsonl"),
        ranks={
            (protocol, split): ranks
            for protocol in PROTOCOLS
            for split in measurable(directory.config)
            if has_target_ranks(directory.path, protocol, split)
            and len((ranks := _read_ranks(directory, protocol, split)).session)
        },
        baselines={} if store is None else _baselines(directory, store),
        store=store,
        store_error=store_error,
        plays_N=plays_N,
        groupings={} if store is None or plays_N is None else groupings(store, plays_N),
        sample=read_sample(directory),
    )


def _baselines(directory: RunDirectory, store: SessionStore) -> dict[str, dict[str, TargetRanks]]:
    found = {one.label: measured_in(one, directory.path, directory.config, store) for one in baselines_of(store)}
    return {
        label: {
            protocol: read_target_ranks(folder, protocol, "test")
            for protocol in PROTOCOLS
            if has_target_ranks(folder, protocol, "test")
        }
        for label, folder in found.items()
        if folder
    }


def _open_store(directory: RunDirectory) -> tuple[SessionStore | None, str]:
    """The data, or why they cannot be read: the report does without them."""
    try:
        store = directory.open_store()
    except UserError as error:
        return None, str(error)
    if not directory.record.is_same(store.manifest):
        return None, f"{store.path} has other sessions than the data {directory.path} was trained on, or another split"
    return store, ""


def _train_metrics(directory: RunDirectory) -> dict[str, float] | None:
    section: dict[str, float] | None = directory.metrics().get("train")
    if section is None:
        return None
    for name in ("epochs", "best_epoch", "seconds", "sessions_per_s"):
        value = section.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UserError(
                f"{directory.path}/metrics.json: 'train' has no number at '{name}': expected what train wrote"
            )
    return section


def _read_ranks(directory: RunDirectory, protocol: str, split: str) -> TargetRanks:
    """A run's ranks; raises `UserError` where they cannot be of its data."""
    ranks, counts = read_target_ranks(directory.path, protocol, split), directory.record.counts
    limits: dict[str, tuple[int, Any]] = {
        "session": (0, counts["sessions"]),
        "target": (0, counts["tracks"]),
        "rank": (NOT_ELIGIBLE, directory.record.num_rows + 1),
        "ties": (0, directory.record.num_rows),
        "candidates": (0, np.inf),
        "position": (0, np.inf),
        "kept_probability": (0, 1.001),
        "halved_probability": (0, 1.001),
        "pairs": (0, np.inf),
    }
    where = f"{directory.path}/{RANKS}/{protocol}-{split}"
    if not len(ranks.session) and protocol != "paper":
        raise UserError(f"{where} holds no session: measure the run again with evaluate")
    for name, (low, end) in limits.items():
        column = getattr(ranks, name)
        if ((column < low) | (column >= end)).any():  # never so for NaN
            raise UserError(f"{where} has '{name}' outside of the run's data: measure the run again with evaluate")
    return ranks
