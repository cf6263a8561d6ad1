"""What `metrics.jsonl` holds of a run: its losses by step and its validation by epoch, also before it has ended."""

import json
from pathlib import Path

import numpy as np

from skipwise.common.errors import UserError, shown
from skipwise.common.files import read_text
from skipwise.training.run.directory import LARGEST_METRICS, METRICS_LINES, RunDirectory

_MAX_DRAWN = 1e30
"""Larger values, an infinite loss among them, become gaps in a curve."""
_COLUMNS = {
    "train": ("step", "epoch", "loss", "nll", "nce", "keep", "sessions_per_s"),
    "refit": ("step", "epoch", "loss", "nll", "nce", "keep", "sessions_per_s"),
    "validation": ("epoch", "hr@1", "hr@10"),
}

Curve = dict[str, np.ndarray]
"""float64 [points] by column, in the order of the file."""


def read_curves(file: Path) -> dict[str, Curve]:
    """Reads `metrics.jsonl`, by kind; raises `UserError` for a line that train did not write.

    An incomplete last line, left by a killed process, is skipped. A missing file is a run that has not started.
    """
    lines = read_text(file, METRICS_LINES, LARGEST_METRICS).splitlines() if file.exists() else []
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in _COLUMNS}
    for number, line in enumerate(lines, start=1):
        try:
            values = {"keep": 0.0} | json.loads(line)  # runs without a keep head have none
            found[values["kind"]].append(tuple(_number(values[name]) for name in _COLUMNS[values["kind"]]))
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{file}, line {number}: {shown(line)} is not a line that train wrote: remove it, or train again"
            ) from error
    return {
        kind: dict(zip(names, np.array(found[kind], dtype=np.float64).reshape(-1, len(names)).T, strict=True))
        for kind, names in _COLUMNS.items()
    }


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value) if abs(value) < _MAX_DRAWN else float("nan")


def progress_so_far(run: RunDirectory) -> str:
    """An unfinished run's last step and its validated epochs, the last ten of them, as text."""
    curves = read_curves(run.path / "metrics.jsonl")
    validation, again = curves["validation"], len(curves["refit"]["step"]) > 0
    steps = curves["refit" if again else "train"]
    lines = [f"{run.path} has not finished training. The command that began it goes on where it stopped."]
    if len(steps["step"]):
        phase = "the refit, " if again else ""
        lines.append(f"last report: {phase}epoch {steps['epoch'][-1]:.0f}, loss {steps['loss'][-1]:.4f}")
    if epochs := len(validation["epoch"]):
        lines.append(
            f"{epochs} of at most {run.config.train.epochs} epochs are validated, by {run.config.selection.protocol}, "
            "all targets:"
        )
        lines.append(f"{'epoch':>5}{'HR@1':>9}{'HR@10':>9}")
        rows = list(zip(*(validation[name].tolist() for name in ("epoch", "hr@1", "hr@10")), strict=True))
        lines += [f"{epoch:5.0f}{first:9.4f}{tenth:9.4f}" for epoch, first, tenth in rows[-10:]]
    return "\n".join(lines)
