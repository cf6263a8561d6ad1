"""After training: do the skips pay? Runs with recorded flags beside one without skips and beside controls.

Shape legend: M sessions, S seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skipwise.common.console import note
from skipwise.common.errors import UserError
from skipwise.common.outputs import require_directory
from skipwise.studies.audit.run_variants import Variant, family
from skipwise.studies.audit.runs_files import write_runs
from skipwise.studies.audit.runs_text import not_done, sentences
from skipwise.studies.comparison import refuse_unlike
from skipwise.studies.skip_figures import differences, figures_of, hit_values, skip_values
from skipwise.training.config import Protocol
from skipwise.training.evaluation.records import TargetRanks, at_dial, read_target_ranks
from skipwise.training.run.directory import RunDirectory

PROTOCOL: Protocol = "served"
"""What is recommended."""
GAINS = ("pairs_in_order", "kept_hr@10")
"""Figures in which skips are to pay."""
COST = 0.003
"""The most of HR@10 that may be lost, in which case a gain has no cost."""


def audit_runs(paths: Sequence[str], output: str | None, dials: Sequence[float] = ()) -> None:
    """Prints three sentences on runs, and writes the audit's files into `output` where there is one."""
    if output is not None:
        require_directory(Path(output))
    figures = compare_flags([RunDirectory.open(path) for path in paths], dials)
    print("\n".join(sentences(figures)))
    if not figures["pairs"]:
        note(
            "the records have no pairs of a kept and a skipped track: each session has one target, or they are of an "
            "older version, and evaluate --run RUN measures each run again"
        )
    for line in not_done(figures):
        note(line)
    if output is None:
        note("add --output DIR to keep the tables and the picture behind these sentences")
    else:
        write_runs(Path(output), figures)
        note(f"wrote {Path(output) / 'runs.md'}, runs.json and runs.png")


def compare_flags(runs: Sequence[RunDirectory], dials: Sequence[float] = ()) -> dict[str, Any]:
    """All figures of the runs' tests, of those with a keep head also at `dials`, as `evaluate --dial` measured them.

    Raises `UserError` for runs that differ in more than what they do with skips.
    """
    found = family(runs, dials)
    variants = [
        found.blind,
        *(one for pair in zip(found.real, found.controls, strict=True) for one in (pair[0], *pair[1])),
    ]
    measured = {id(one): [read_target_ranks(run.path, _records(one), "test") for run in one.runs] for one in variants}
    refuse_unlike(
        [(run.path, ranks) for one in variants for run, ranks in zip(one.runs, measured[id(one)], strict=True)]
    )
    first = measured[id(found.blind)][0]
    for one in variants:
        for run, ranks in zip(one.runs, measured[id(one)], strict=True):
            if not np.array_equal(ranks.pairs, first.pairs):
                older = found.blind.runs[0] if ranks.pairs.any() else run
                raise UserError(
                    f"{older.path} has records of an older version, without pairs: measure it again with "
                    f"evaluate --run {older.path}"
                )
    values = {id(one): _over_seeds(measured[id(one)]) for one in variants}
    undialled = {one.runs: values[id(one)] for one in variants if one.measured_at is None}

    def row_of(one: Variant) -> dict[str, Any]:
        row = _row(one, values, found.blind)
        if one.measured_at is not None:
            row["turned"] = differences(values[id(one)], undialled[one.runs])
        return row

    rows: dict[str, dict[str, Any]] = {}
    for real, controls in zip(found.real, found.controls, strict=True):
        rows[_name(real, rows)] = row_of(real) | {
            "controls": {
                _name(control, {}): row_of(control) | {"lost": differences(values[id(real)], values[id(control)])}
                for control in controls
            }
        }
    return {
        "data": {"path": found.blind.config.data.path, "counts": dict(runs[0].record.counts)},
        "protocol": PROTOCOL,
        "sessions": len(np.unique(first.session)),
        "targets": len(first.session),
        "pairs": int(first.pairs.sum()),
        "seeds": [run.config.train.seed for run in found.blind.runs],
        "best_is_last": [str(run.path) for run in runs if _best_is_last(run)],
        "blind": _row(found.blind, values, None),
        "rows": rows,
        "verdict": verdict(next(iter(rows.values()))),
    }


def _best_is_last(run: RunDirectory) -> bool:
    train = run.metrics()["train"]
    return "best_epoch" in train and train["best_epoch"] == train.get("epochs")


def _records(one: Variant) -> str:
    return PROTOCOL if one.measured_at is None else at_dial(one.measured_at)


def verdict(row: dict[str, Any]) -> dict[str, Any]:
    """Whether the model asked about gains, whether each control loses that, and what it costs.

    `gained`: the figures of `GAINS` whose interval over the model without skips lies above zero; `by_flags`: those of
    them that lie above every control's as well; `cost`: how much HR@10 falls, where by more than `COST` and surely.
    """
    gained = [name for name in GAINS if name in row["gain"] and row["gain"][name][1] > 0]
    controls = list(row["controls"].values())
    by_flags = [name for name in gained if controls and all(one["lost"][name][1] > 0 for one in controls)]
    mean, _, high = row["gain"]["hr@10"]
    return {
        "gained": gained,
        "by_flags": by_flags,
        "controls": len(controls),
        "cost": -mean if high < 0 and mean < -COST else 0.0,
    }


def _over_seeds(measured_S: Sequence[TargetRanks]) -> dict[str, np.ndarray]:
    """[S, M] values of hit rates, and of the figures about skips that all seeds have."""
    values_S = [hit_values(ranks) | skip_values(ranks) for ranks in measured_S]
    return {name: np.stack([one[name] for one in values_S]) for name in values_S[0] if all(name in v for v in values_S)}


def _row(one: Variant, values: dict[int, dict[str, np.ndarray]], blind: Variant | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "parts": one.parts,
        "flags": one.config.data.skip_flags,
        "runs": [str(run.path) for run in one.runs],
        "settings": one.settings(),
        "figures": figures_of(values[id(one)]),
    }
    return found if blind is None else found | {"gain": differences(values[id(one)], values[id(blind)])}


def _name(one: Variant, taken: dict[str, Any]) -> str:
    """Its label, with the first run's path where another row has that label."""
    return f"{one.label} ({one.runs[0].path})" if one.label in taken else one.label
