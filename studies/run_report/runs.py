"""A run as the page shows it: its directory, its ranks, its data where they still are, a sample of its table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipwise.common.errors import UserError
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.run_report.curves import Curves, read_curves
from skipwise.studies.run_report.table_sample import Sample, read_sample
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import PROTOCOLS, measurable
from skipwise.training.evaluation.records import RANKS, Ranks, has_ranks, read_ranks
from skipwise.training.run.directory import RunDirectory


@dataclass(frozen=True)
class ReportedRun:
    """Everything that a page tells of a run. Missing parts are None; a damaged one is a `UserError` beforehand."""

    label: str
    """What pictures and tables call it: A or B."""
    directory: RunDirectory
    default: RunConfig | None
    """The config of its recipe as it stands; None for a recipe that is not there any more."""
    train: dict[str, float] | None
    """Epochs, best epoch, seconds and sessions/s, once training has ended."""
    curves: Curves
    ranks: dict[tuple[str, str], Ranks]
    """By protocol and split, where measured."""
    store: SessionStore | None
    trouble: str
    """Why there is no `store`."""
    plays_N: np.ndarray | None
    """int64 [tracks]: training plays; None without a store."""
    sample: Sample | None


def read_run(path: str, label: str, default_of: Callable[[str], RunConfig | None]) -> ReportedRun:
    """Reads a run; raises `UserError` for a directory or a part of it that is not what train wrote."""
    directory = RunDirectory.open(path)
    store, trouble = _store(directory)
    return ReportedRun(
        label=label,
        directory=directory,
        default=default_of(directory.record["recipe"]),
        train=_train(directory),
        curves=read_curves(directory.path / "metrics.jsonl"),
        ranks={
            (protocol, split): _checked(directory, protocol, split)
            for protocol in PROTOCOLS
            for split in measurable(directory.config)
            if has_ranks(directory.path, protocol, split)
        },
        store=store,
        trouble=trouble,
        plays_N=None if store is None else train_counts(store),
        sample=read_sample(directory),
    )


def _store(directory: RunDirectory) -> tuple[SessionStore | None, str]:
    """The data, or why they are not to be had: a page can do without."""
    try:
        store = directory.open_store()
    except UserError as error:
        return None, str(error)
    if store.manifest.counts != directory.record["counts"]:
        return None, f"{store.path} has other counts than the data {directory.path} was trained on"
    return store, ""


def _train(directory: RunDirectory) -> dict[str, float] | None:
    section = directory.metrics().get("train")
    if section is None:
        return None
    for name in ("epochs", "best_epoch", "seconds", "sessions_per_s"):
        value = section.get(name)
        if type(value) not in (int, float) or not 0 <= value < float("inf"):
            raise UserError(
                f"{directory.path}/metrics.json: 'train' has no number at '{name}': expected what train wrote"
            )
    return section


def _checked(directory: RunDirectory, protocol: str, split: str) -> Ranks:
    """A run's ranks; raises `UserError` where they cannot be of its data."""
    ranks, counts = read_ranks(directory.path, protocol, split), directory.record["counts"]
    limits: dict[str, tuple[int, Any]] = {
        "session": (0, counts.get("sessions", np.inf)),
        "target": (0, counts["tracks"]),
        "rank": (1, counts["tracks"] + 1),
        "candidates": (0, np.inf),
        "position": (0, np.inf),
    }
    where = f"{directory.path}/{RANKS}/{protocol}-{split}"
    if not len(ranks.session):
        raise UserError(f"{where} holds no session: measure the run again with evaluate")
    for name, (low, end) in limits.items():
        column = getattr(ranks, name)
        if column.min() < low or column.max() >= end:
            raise UserError(f"{where} has '{name}' outside of the run's data: measure the run again with evaluate")
    return ranks
