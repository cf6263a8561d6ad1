"""HR@10 by groups of sessions: length, position, context type and popularity of the target.

All runs of a report share their groups. Shape legend: N sessions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skipwise.studies.groupings import CONTEXT, by_number, groupings
from skipwise.studies.run_report.reported_run import ReportedRun
from skipwise.studies.statistics import interval
from skipwise.training.evaluation.records import TargetRanks

METRIC = "hr@10"
_MAX_GROUPS = 10
OTHERS = "all others"


class Point(NamedTuple):
    """A group's mean, its 95 % interval and its number of sessions."""

    mean: float
    low: float
    high: float
    num_sessions: int


@dataclass(frozen=True)
class Series:
    """The points of one run, or of one split of it."""

    label: str
    run: int
    """Index of the run: sets the colour."""
    split: int
    """Index of the split: sets marker and line."""
    points: dict[str, Point]
    """By group."""


Measured = tuple[str, int, int, TargetRanks]
"""Label, index of the run, index of the split, and its ranks."""


def series_by_group(measured: Sequence[Measured], labels: Sequence[np.ndarray]) -> list[Series]:
    """One `Series` each, `labels` being the [N] group names; groups beyond the ten largest are merged.

    Groups are in the order of their names.
    """
    sizes: dict[str, int] = {}
    for labels_N in labels:
        for name, size in zip(*np.unique(labels_N, return_counts=True), strict=True):
            sizes[str(name)] = sizes.get(str(name), 0) + int(size)
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_MAX_GROUPS]
    shown = sorted(sizes if len(sizes) <= _MAX_GROUPS + 1 else largest)
    found = []
    for (label, run, split, ranks), labels_N in zip(measured, labels, strict=True):
        values_N = ranks.values(METRIC)
        chosen = {name: labels_N == name for name in shown}
        if len(shown) < len(sizes):
            chosen[OTHERS] = ~np.isin(labels_N, shown)
        points = {
            name: Point(float(values_N[one].mean()), *interval(values_N[one]), int(one.sum()))
            for name, one in chosen.items()
            if one.any()
        }
        found.append(Series(label, run, split, points))
    return found


def joint_labels(label: Callable[[TargetRanks], np.ndarray], measured: Sequence[TargetRanks]) -> list[np.ndarray]:
    """[N] group names of each, where `label` derives the groups from all of them together."""
    joined = TargetRanks(
        **{name: np.concatenate([getattr(one, name) for one in measured]) for name in vars(measured[0])}
    )
    return np.split(label(joined), np.cumsum([len(one.session) for one in measured])[:-1])


@dataclass(frozen=True)
class Breakdown:
    """One way to group sessions."""

    title: str
    explanation: str
    splits: tuple[str, ...] = ("test",)
    number_of: Callable[[TargetRanks], np.ndarray] | None = None
    """Groups by this number [N] of each session; None for a grouping that needs the run's data."""
    grouping: str = ""
    """Name of that grouping in `studies.groupings`."""

    def series(self, runs: list[ReportedRun], protocol: str) -> list[Series]:
        """The series of every run that has what the breakdown needs."""
        measured, labels = [], []
        for number, run in enumerate(runs):
            for place, split in enumerate(self.splits):
                ranks = run.ranks.get((protocol, split))
                if ranks is None:
                    continue
                if self.grouping:
                    if run.store is None or run.plays_N is None:
                        continue
                    label = groupings(run.store, run.plays_N).get(self.grouping)
                    if label is None:
                        continue
                    labels.append(label(ranks))
                parts = [f"run {run.label}"] * (len(runs) > 1) + [split] * (len(self.splits) > 1)
                measured.append((" ".join(parts) or "test", number, place, ranks))
        number_of = self.number_of
        if number_of and measured:
            labels = joint_labels(lambda ranks: by_number(number_of(ranks)), [ranks for *_, ranks in measured])
        return series_by_group(measured, labels)

    def missing(self, runs: list[ReportedRun]) -> list[str]:
        """What each run lacks for it."""
        lines = []
        for run in runs if self.grouping else ():
            if run.store is None:
                lines.append(f"Run {run.label}: the data are not available: {run.store_error}")
            elif self is BY_CONTEXT and CONTEXT not in run.store.manifest.context_columns:
                lines.append(f"Run {run.label}: the data have no column '{CONTEXT}'.")
        return lines


BY_CONTEXT = Breakdown(
    "context type of the target's play", "As the log has it; test targets.", grouping="target's context type"
)
BREAKDOWNS = (
    Breakdown(
        "session length",
        "Test targets, each session's last track; in brackets the number of sessions.",
        number_of=lambda ranks: ranks.position + 1,
    ),
    Breakdown(
        "position: tracks before the target",
        "In the test it is the session's length less one; the validation target stands one place earlier, and "
        "the best epoch was chosen by it. A refit has trained on it, and shows the test alone.",
        ("test", "validation"),
        number_of=lambda ranks: ranks.position,
    ),
    BY_CONTEXT,
    Breakdown(
        "the target's popularity",
        "Fifths of the test sessions by how often training saw their target.",
        grouping="target's popularity",
    ),
)
