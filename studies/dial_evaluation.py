"""A finished run's test at other settings of the dial than its own, beside that: `evaluate --dial`."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from skipwise.common.distributed import logger, rank, world_size
from skipwise.common.errors import UserError
from skipwise.studies.dial_curve import COST, FIGURES, METRICS, Curve, Rows, compare_dials, measure_curve
from skipwise.studies.skip_comparison import share
from skipwise.training.evaluation.dialled_ranks import rank_at_dials
from skipwise.training.evaluation.evaluator import what_to_measure
from skipwise.training.evaluation.records import TargetRanks, TargetRankWriter, at_dial
from skipwise.training.run.directory import RunDirectory


def evaluate_dials(
    run: RunDirectory,
    settings: Sequence[float | Literal["auto"]],
    data: str | None = None,
    positions: Literal["all", "last"] | None = None,
    exported: float | None = None,
) -> dict[str, Any]:
    """Measures the test at each setting and at the run's own, by the rules of `served`, prints both, and returns rows.

    `auto` is `exported`, or where that is None what a curve over the run's validation says. Where the run's own test is
    measured as its config says, the rows are written to `metrics.json`, and each target's rank to `ranks/`. Raises
    `UserError` for a run without a keep head.
    """
    if not run.config.loss.keep:
        raise UserError(
            f"--dial turns the ranking by a keep head, and {run.path} has none: train a run with --loss.keep above 0"
        )
    asked = what_to_measure(run, data, positions)
    held_out, own = asked.held_out["test"], asked.config.evaluate.dial
    with asked.best_model(run) as model:
        chosen = {own, *(float(one) for one in settings if one != "auto")}
        if "auto" in settings and exported is None:
            curve = measure_curve(run.config, run.open_store(), model)
            logger.info(_of_auto(curve))
            chosen.add(curve.auto)
        elif exported is not None:
            chosen.add(exported)
        found = rank_at_dials(asked.config, model, held_out, "test", asked.config.evaluate.sessions, sorted(chosen))
        rows = compare_dials(found, own)
        counts = {"targets": len(found[own].session), "pairs": int(found[own].pairs.sum())}
        told: dict[str, Any] = {f"{dial:g}": row | counts | {"own": own} for dial, row in rows.items()}
        if asked.own:
            for dial, ranks in found.items():
                if dial != own:
                    _write(run, dial, ranks)
            run.update_metrics({"dial": told})
    logger.info(f"test of {run.path} by dial: {held_out.sessions.path}")
    logger.info(dial_text(rows, own, **counts))
    return told


def dial_text(rows: Rows, own: float, targets: int, pairs: int) -> str:
    """The figures of each setting in a line, and below them how they differ from the run's own setting."""
    names = [name for name in FIGURES if any(name in row["figures"] for row in rows.values())]
    beside = [name for name in names if name not in METRICS]
    heads = "".join(f"{name.upper():>9}" for name in METRICS) + "".join(f"  {FIGURES[name]}" for name in beside)
    lines = [f"{'dial':9}{heads}"]
    for dial, row in rows.items():
        cells = "".join(f"{row['metrics'][name]:9.4f}" for name in METRICS)
        cells += "".join(f"{row['figures'][name]['mean']:{len(FIGURES[name]) + 2}.4f}" for name in beside)
        lines.append(f"{f'{dial:g}':9}{cells}")
    for dial, row in rows.items():
        if "difference" in row:
            told = (f"{FIGURES[name]} {difference_text(row['difference'][name])}" for name in names)
            lines.append(f"dial {dial:g} less {own:g}: {'; '.join(told)}.")
    lines.append(
        f"Of {targets:,} test targets among what is recommended (served), {pairs:,} pairs of a kept track and one "
        f"skipped before it; expected skips: of the 10 tracks recommended first. {own:g} is the run's own dial. In "
        "brackets: 95 % intervals over sessions, paired."
    )
    return "\n".join(lines)


def difference_text(found: Sequence[float]) -> str:
    """A mean and its interval, signed."""
    return "{} [{}, {}]".format(*(share(value, "+") for value in found))


def _of_auto(curve: Curve) -> str:
    """What `auto` is, and why."""
    where = f"on {curve.targets:,} targets of the {curve.split}"
    if not curve.auto:
        return (
            f"auto is 0: {where}, no setting gains {FIGURES[curve.gained]} beyond its own 95 % interval over sessions, "
            f"paired, for at most {100 * COST:g} points of HR@10"
        )
    found = curve.rows[curve.auto]["difference"]
    return (
        f"auto is {curve.auto:g}: {where}, it gains most {FIGURES[curve.gained]} "
        f"({difference_text(found[curve.gained])}), for {difference_text(found['hr@10'])} of HR@10"
    )


def _write(run: RunDirectory, dial: float, ranks: TargetRanks) -> None:
    """Every rank writes its share of the records."""
    with TargetRankWriter(run.path, at_dial(dial), "test") as records:
        mine = slice(rank(), None, world_size())
        records.write(**{name: torch.from_numpy(values[mine].copy()) for name, values in vars(ranks).items()})
