"""Two or more runs' hit rates side by side, as text: what `show --run A --run B` prints."""

from collections.abc import Sequence
from typing import Any

from skipwise.common.errors import UserError
from skipwise.training.config import PROTOCOLS, SPLITS
from skipwise.training.evaluation.hit_rate_table import ceiling
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.evaluation.skip_measures import FORESEEN, ORDERED
from skipwise.training.run.directory import RunDirectory, read_metrics


def compare_runs(runs: Sequence[RunDirectory]) -> str:
    """The runs' hit rates by protocol and split, one line a run, and each later run's difference to the first.

    Raises `UserError` where the runs were not measured alike: on other data, or with another `evaluate` section.
    """
    first = runs[0]
    for run in runs[1:]:
        if unlike := _unlike(first, run):
            raise UserError(f"{run.path} cannot be compared with {first.path}: {unlike}")
    letters = [chr(ord("A") + number) for number in range(len(runs))]
    lines = [f"{letter}: {run.path} ({run.record.recipe})" for letter, run in zip(letters, runs, strict=True)]
    lines.append(f"{'protocol':9}{'split':11}{'run':5}" + "".join(f"{name.upper():>9}" for name in METRICS))
    lines[-1] += f"{'targets':>10}"
    for run in runs:
        if not (run.path / "metrics.json").exists():
            raise UserError(f"{run.path} has not finished training: show --run {run.path} prints how far it is")
    metrics = [read_metrics(run.path / "metrics.json", "the metrics of a finished run") for run in runs]
    for protocol in PROTOCOLS:
        for split in SPLITS:
            place = f"{protocol:9}{split:11}"
            found = [_figures(run, sections, protocol, split) for run, sections in zip(runs, metrics, strict=True)]
            for letter, figures in zip(letters, found, strict=True):
                if figures is None:
                    continue
                cells = "".join(f"{figures[name]:9.4f}" for name in METRICS)
                lines.append(f"{place}{letter:5}{cells}{figures['targets']:10d}")
                if letter != "A" and found[0] is not None:
                    cells = "".join(f"{figures[name] - found[0][name]:+9.4f}" for name in METRICS)
                    lines.append(f"{place}{f'{letter}-A':5}{cells}")
    lines += _of_skips(letters, metrics)
    lines += _ceilings(letters, metrics)
    lines += refit_note(letters, [run.config.train.refit for run in runs])
    for letter, run, sections in zip(letters, runs, metrics, strict=True):
        if not any(sections.get(protocol) for protocol in PROTOCOLS):
            lines.append(f"{letter} has no figures by {', '.join(PROTOCOLS)}: evaluate --run {run.path} measures them")
    lines.append("`report --run A --run B` tests whether a difference is significant.")
    return "\n".join(lines)


def refit_note(names: Sequence[str], refit: Sequence[bool]) -> list[str]:
    """A sentence where some runs were refit and others not; else none."""
    again = [name for name, one in zip(names, refit, strict=True) if one]
    if len(again) in (0, len(names)):
        return []
    others = [name for name in names if name not in again]
    return [
        f"Refit on the validation targets, before the test: {', '.join(again)}; not {', '.join(others)}. Part of their "
        "difference is that they learned from more recent plays: compare refit runs with refit ones."
    ]


def _ceilings(letters: Sequence[str], metrics: Sequence[dict[str, Any]]) -> list[str]:
    """What `served` allows on each split, where the records count new targets."""
    found: dict[str, list[str]] = {}
    for letter, one in zip(letters, metrics, strict=True):
        for split in SPLITS:
            values = one.get("served", {}).get(split, {})
            if values.get("targets") and type(values.get("new_targets")) is int:
                found.setdefault(f"{split} {ceiling(values):.4f}", []).append(letter)
    if not found:
        return []
    told = "; ".join(f"{limit} ({', '.join(of)})" for limit, of in found.items())
    return [f"No hit rate by served can be above the share of targets that are new to their session: {told}."]


def _of_skips(letters: Sequence[str], metrics: Sequence[dict[str, Any]]) -> list[str]:
    """How skips are foreseen and ordered on each split, one line a run that says so; the same by every protocol."""
    lines = []
    for split in SPLITS:
        found: list[dict[str, Any]] = [
            next((one[by][split] for by in PROTOCOLS if split in one.get(by, {})), {}) for one in metrics
        ]
        shown = {
            name: label
            for name, label in (FORESEEN | ORDERED).items()
            if any(isinstance(figures.get(name), float) for figures in found)
        }
        if not shown:
            continue
        lines.append(f"{'skips':9}{'split':11}{'run':5}" + "".join(f"{label:>18}" for label in shown.values()))
        for letter, figures in zip(letters, found, strict=True):
            values = [figures.get(name) for name in shown]
            cells = "".join(f"{value:18.4f}" if isinstance(value, float) else f"{'-':>18}" for value in values)
            lines.append(f"{'':9}{split:11}{letter:5}{cells}")
    return lines


def _unlike(first: RunDirectory, other: RunDirectory) -> str:
    """Why two runs' metrics are not of the same sessions and candidates, and what to do; empty where they are."""
    if not first.record.is_same(other.record):
        return "the runs were trained on different data sets, or different splits of one; train both on one"
    for name, value in vars(first.config.evaluate).items():
        found = getattr(other.config.evaluate, name)
        if name not in ("batch_size", "dial") and found != value:
            return f"its config has evaluate.{name} {found}, not {value}; train both with the same"
    return ""


def _figures(run: RunDirectory, metrics: dict[str, Any], protocol: str, split: str) -> dict[str, Any] | None:
    """One split's metrics, None where it was not measured; raises `UserError` where figures are missing."""
    figures = metrics.get(protocol, {}).get(split)
    if figures is None:
        return None
    whole = isinstance(figures, dict) and type(figures.get("targets")) is int
    if not whole or not all(type(figures.get(name)) in (int, float) for name in METRICS):
        raise UserError(
            f"{run.path}/metrics.json lacks figures of '{protocol}' '{split}': measure it again with "
            f"evaluate --run {run.path} --protocol {protocol}"
        )
    return figures
