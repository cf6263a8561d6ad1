"""How far a validation figure orders models as the test does: what a `selection` is worth on these rows.

Shape legend: M models.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from skipwise.studies.comparison import Row
from skipwise.studies.markdown_table import markdown_table
from skipwise.training.config import PROTOCOLS, SelectionConfig
from skipwise.training.run.directory import RunDirectory

SELECTIONS = tuple(
    SelectionConfig(metric, protocol, targets)
    for protocol in PROTOCOLS
    for metric in ("ndcg@10", "hr@10", "hr@1")
    for targets in ("all", "kept")
)
TESTED = tuple(SelectionConfig(metric, protocol) for protocol in PROTOCOLS for metric in ("ndcg@10", "hr@10"))
"""The test's figures that models are to be ordered by."""
LEAST = 5
"""Models; the order of fewer says nothing."""


def selection_order(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation over models of each validation figure with each of the test's, by their names.

    A model's figure is the mean over its seeds. Refit rows are left out, because their validation is of other weights
    than their test. Empty for fewer than `LEAST` models.
    """
    models = [row for row in rows if not row.reference and not row.refit]
    if len(models) < LEAST:
        return {}
    metrics = [[RunDirectory.open(str(path)).metrics() for path in row.runs] for row in models]
    tested = {chosen.name: _figures(metrics, chosen, "test") for chosen in TESTED}
    return {
        chosen.name: {
            name: _spearman(_figures(metrics, chosen, "validation"), test_M) for name, test_M in tested.items()
        }
        for chosen in SELECTIONS
    }


def _figures(metrics: list[list[dict[str, Any]]], chosen: SelectionConfig, split: str) -> np.ndarray:
    """[M]; NaN where a model has no such figure."""
    return np.array([np.mean([_value(run, chosen, split) for run in runs]) for runs in metrics])


def _value(metrics: dict[str, Any], chosen: SelectionConfig, split: str) -> float:
    values = metrics.get(chosen.protocol, {}).get(split, {})
    value = values.get(chosen.metric if chosen.targets == "all" else f"kept_{chosen.metric}")
    return np.nan if value is None else float(value)


def _spearman(validation_M: np.ndarray, test_M: np.ndarray) -> float:
    """NaN where a figure is missing or all models have the same."""
    if np.ptp(validation_M) > 0 and np.ptp(test_M) > 0:
        return float(stats.spearmanr(validation_M, test_M).statistic)
    return float("nan")


def selection_markdown(order: dict[str, dict[str, float]]) -> list[str]:
    """The correlations as a table, the best of each column in bold."""
    if not order:
        return []
    heads = list(next(iter(order.values())))
    best = {head: np.nanmax([found[head] for found in order.values()], initial=-2.0) for head in heads}
    lines = []
    for name, found in order.items():
        cells = ["" if np.isnan(value) else f"{value:.2f}" for value in found.values()]
        marked = [f"**{cell}**" if found[head] == best[head] else cell for head, cell in zip(heads, cells, strict=True)]
        lines.append([name, *marked])
    return [
        "## What validation orders the models by",
        "",
        "Spearman's correlation over the models that were not refit, of a validation figure with one of the test's: 1 "
        "where both order the models alike.",
        "",
        *markdown_table(["validation", *(f"test, {head}" for head in heads)], lines),
    ]
