"""Hit rates of groups of sessions, for all runs by the same groups.

Shape legend: N sessions, G groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skipwise.studies.comparison import METRICS
from skipwise.studies.statistics import interval
from skipwise.training.evaluation.records import Ranks

METRIC = "hr@10"
_MOST_GROUPS = 10
OTHERS = "all others"


@dataclass(frozen=True)
class Series:
    """A row of points: one run's, or one split's of it."""

    label: str
    run: int
    """Which run it is of: colours follow from it."""
    place: int
    """Which of that run's it is: markers and lines follow from it."""
    points: dict[str, tuple[float, float, float, int]]
    """By group: the mean, its 95 % interval, and the number of sessions."""


def broken_down(measured: Sequence[tuple[str, int, int, Ranks, np.ndarray]]) -> list[Series]:
    """A `Series` of each (label, run, place, ranks, [N] group names); groups past the ten largest are thrown together.

    Groups stand in the order of their names.
    """
    sizes: dict[str, int] = {}
    for *_, labels_N in measured:
        for name, size in zip(*np.unique(labels_N, return_counts=True), strict=True):
            sizes[str(name)] = sizes.get(str(name), 0) + int(size)
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_MOST_GROUPS]
    few = sorted(sizes if len(sizes) <= _MOST_GROUPS + 1 else largest)
    found = []
    for label, run, place, ranks, labels_N in measured:
        values_N = METRICS[METRIC](ranks)
        chosen = {name: labels_N == name for name in few}
        if len(few) < len(sizes):
            chosen[OTHERS] = ~np.isin(labels_N, few)
        points = {
            name: (float(values_N[one].mean()), *interval(values_N[one]), int(one.sum()))
            for name, one in chosen.items()
            if one.any()
        }
        found.append(Series(label, run, place, points))
    return found


def label_together(label: Callable[[Ranks], np.ndarray], measured: Sequence[Ranks]) -> list[np.ndarray]:
    """[N] group names of each, where `label` draws the lines between groups from all of them at once."""
    joined = Ranks(**{name: np.concatenate([getattr(one, name) for one in measured]) for name in vars(measured[0])})
    return np.split(label(joined), np.cumsum([len(one.session) for one in measured])[:-1])
