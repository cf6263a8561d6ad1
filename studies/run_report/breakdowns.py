"""HR@10 by groups of targets: new or repeated, position, context type, popularity and the track's age.

All runs of a report share their groups. Shape legend: N targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skipwise.studies.groupings import CONTEXT, by_number
from skipwise.studies.run_report.reported_run import ReportedRun
from skipwise.studies.statistics import interval, per_session
from skipwise.training.evaluation.records import TargetRanks

METRIC = "hr@10"
_MAX_GROUPS = 10
OTHERS = "all others"


class Point(NamedTuple):
    """A group's mean, its 95 % interval and its number of targets."""

    mean: float
    low: float
    high: float
    num_targets: int


class Measured(NamedTuple):
    """A split of a run; the indices set colour, marker and line."""

    label: str
    run: int
    split: int
    ranks: TargetRanks


class Series(NamedTuple):
    """The points of a split of a run, by group."""

    label: str
    run: int
    split: int
    points: dict[str, Point]


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
    for one, labels_N in zip(measured, labels, strict=True):
        values_N = one.ranks.values(METRIC)
        chosen = {name: labels_N == name for name in shown}
        if len(shown) < len(sizes):
            chosen[OTHERS] = ~np.isin(labels_N, shown)
        points = {
            name: Point(
                float(values_N[own_N].mean()),
                *interval(per_session(values_N[own_N], one.ranks.session[own_N])),
                int(own_N.sum()),
            )
            for name, own_N in chosen.items()
            if own_N.any()
        }
        found.append(Series(one.label, one.run, one.split, points))
    return found


def joint_labels(numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The names of the groups of each [N] of numbers, which all share."""
    return np.split(by_number(np.concatenate(numbers)), np.cumsum([len(numbers_N) for numbers_N in numbers])[:-1])


@dataclass(frozen=True)
class Breakdown:
    """One way to group targets."""

    title: str
    explanation: str
    splits: tuple[str, ...] = ("test",)
    number_of: Callable[[TargetRanks], np.ndarray] | None = None
    """Groups by this number [N] of each target; None for a grouping that needs the run's data."""
    grouping: str = ""
    """Name of that grouping in `studies.groupings`."""
    lacking: str = ""
    """What is said of data that have no such groups."""

    def series(self, runs: list[ReportedRun], protocol: str) -> list[Series]:
        """The series of every run that has what the breakdown needs."""
        measured, labels = [], []
        for number, run in enumerate(runs):
            for place, split in enumerate(self.splits):
                ranks = run.ranks.get((protocol, split))
                if ranks is None or self.grouping and self.grouping not in run.groupings:
                    continue
                if self.grouping:
                    labels.append(run.groupings[self.grouping](ranks))
                parts = [f"run {run.label}"] * (len(runs) > 1) + [split] * (len(self.splits) > 1)
                measured.append(Measured(" ".join(parts) or "test", number, place, ranks))
        if self.number_of and measured:
            labels = joint_labels([self.number_of(one.ranks) for one in measured])
        return series_by_group(measured, labels)

    def missing(self, runs: list[ReportedRun]) -> list[str]:
        """What each run lacks for it."""
        lines = []
        for run in runs if self.grouping else ():
            if run.store is None:
                lines.append(f"Run {run.label}: the data are not available: {run.store_error}")
            elif self.grouping not in run.groupings:
                lines.append(f"Run {run.label}: {self.lacking}.")
        return lines


BREAKDOWNS = (
    Breakdown(
        "new or repeated target",
        "Repeated: the session had played the track before, so that it is not recommended.",
        grouping="new or repeated target",
    ),
    Breakdown(
        "position in the session (1 is its first track)",
        "The best epoch was chosen by the validation targets. A refit has trained on them, and shows the test alone.",
        ("test", "validation"),
        number_of=lambda ranks: ranks.position + 1,
    ),
    Breakdown(
        "context type of the target's play",
        "As the log has it; test targets.",
        grouping="target's context type",
        lacking=f"the data have no column '{CONTEXT}'",
    ),
    Breakdown(
        "the target's popularity",
        "Fifths of the test targets by how often training saw them.",
        grouping="target's popularity",
    ),
    Breakdown(
        "the age of the target's track",
        "Test targets by the time since the first play of their track in the log, where prepare read times; apart, "
        "tracks that training does not play. A track may be older than the log.",
        grouping="age of the target's track",
        lacking="the data have no times, and training plays all of their tracks",
    ),
)
