"""What `metrics.jsonl` tells: losses and sessions/s by step, hit rates by epoch."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skipwise.common.errors import UserError, shown
from skipwise.common.files import read_text

_LARGEST = 1 << 28
_DRAWABLE = 1e30
"""A chart has no room for what lies beyond, an infinite loss among it: a gap stands there."""
_WANTED = {
    "train": ("step", "epoch", "loss", "nll", "nce", "sessions_per_s"),
    "refit": ("step", "epoch", "loss", "nll", "nce", "sessions_per_s"),
    "validation": ("epoch", "hr@1", "hr@10"),
}

Curve = dict[str, np.ndarray]
"""float64 [points] by name, in the order of the file."""


@dataclass(frozen=True)
class Curves:
    """The lines of each kind; a kind of which there are none has empty arrays."""

    train: Curve
    refit: Curve
    validation: Curve


def read_curves(file: Path) -> Curves:
    """Reads the file as far as it goes; raises `UserError` for a line that train did not write.

    A last line that was cut off is left out: its writer was killed. A missing file is a run that has not begun.
    """
    lines = read_text(file, "the metrics of a run's steps", _LARGEST).splitlines() if file.exists() else []
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in _WANTED}
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            found[values["kind"]].append(tuple(_number(values[name]) for name in _WANTED[values["kind"]]))
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{file}, line {number}: {shown(line)} is not a line that train wrote: remove it, or train again"
            ) from error
    columns = {}
    for kind, names in _WANTED.items():
        values = np.array(found[kind], dtype=np.float64).reshape(-1, len(names))
        columns[kind] = dict(zip(names, values.T, strict=True))
    return Curves(**columns)


def thinned(curve: Curve, points: int = 300) -> Curve:
    """At most `points` of them: means of as many stretches of equal length."""
    length = len(next(iter(curve.values())))
    if length <= points:
        return curve
    first = np.linspace(0, length, points, endpoint=False).astype(int)
    sizes = np.diff(np.append(first, length))
    return {name: np.add.reduceat(values, first) / sizes for name, values in curve.items()}


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value) if abs(value) < _DRAWABLE else float("nan")
