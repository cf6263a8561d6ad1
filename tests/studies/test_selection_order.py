"""Validation figures against the test's over made-up models: correlations by hand, and what is left out."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from skipwise.studies import selection_order as module
from skipwise.studies.comparison import Row
from skipwise.studies.selection_order import SELECTIONS, TESTED, selection_markdown, selection_order
from skipwise.training.config import PROTOCOLS

FIGURES = ("hr@1", "hr@10", "ndcg@10", "kept_hr@1", "kept_hr@10", "kept_ndcg@10")


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch):
    """`write(name, validation, test)`: a run whose every figure is that number, but for what `changes` say."""
    runs: dict[str, Any] = {}

    def run(name: str, validation: float, test: float, **changes: float | None) -> Path:
        splits = {"validation": dict.fromkeys(FIGURES, validation), "test": dict.fromkeys(FIGURES, test)}
        metrics = {protocol: {split: dict(values) for split, values in splits.items()} for protocol in PROTOCOLS}
        metrics["served"]["validation"] |= changes
        runs[name] = metrics
        return Path(name)

    monkeypatch.setattr(
        module, "RunDirectory", SimpleNamespace(open=lambda path: SimpleNamespace(metrics=lambda: runs[path]))
    )
    return run


def rows_of(write) -> list[Row]:
    """Five models; the third one's two seeds are .1 and .5 on validation, and its served NDCG@10 .9 in both."""
    values = [(0.1, 0.2), (0.2, 0.1), (0.3, 0.3), (0.4, 0.5), (0.5, 0.4)]
    runs = [(write(f"m{number}", *pair),) for number, pair in enumerate(values)]
    runs[2] = (write("a", 0.1, 0.2, **{"ndcg@10": 0.9}), write("b", 0.5, 0.4, **{"ndcg@10": 0.9}))
    rows = [Row(f"m{number}", "", "g", paths) for number, paths in enumerate(runs)]
    rows.append(Row("refit", "", "g", (write("r", 9.0, -9.0),), refit=True))
    return [*rows, Row("reference", "", "g", (write("x", 9.0, -9.0),), reference=True)]


def test_correlations_by_hand(write):
    """Two neighbours change places twice: 1 - 6 * 4 / (5 * 24) = .8. With served NDCG@10 the third is first instead."""
    found = selection_order(rows_of(write))
    assert set(found) == {chosen.name for chosen in SELECTIONS} and len(found) == 18
    assert set(found["full HR@10"]) == {chosen.name for chosen in TESTED}
    for name, correlations in found.items():
        expected = 0.8
        if name == "served NDCG@10":
            expected = stats.spearmanr([0.1, 0.2, 0.9, 0.4, 0.5], [0.2, 0.1, 0.3, 0.5, 0.4]).statistic
        assert list(correlations.values()) == pytest.approx([expected] * len(TESTED)), name


def test_fewer_than_five_models_have_no_order(write):
    rows = rows_of(write)
    assert selection_order(rows[1:]) == {} and selection_markdown({}) == []


def test_a_figure_that_is_missing_or_alike_has_no_correlation(write):
    rows = rows_of(write)
    write("m0", 0.1, 0.2, **{"kept_hr@1": None})
    found = selection_order(rows)
    assert all(map(math.isnan, found["served HR@1 of kept targets"].values()))
    for number in range(5):
        write(f"m{number}", 0.3, float(number))
    write("a", 0.3, 0.2), write("b", 0.3, 0.2)
    assert all(np.isnan(value) for value in selection_order(rows)["full HR@10"].values())


def test_the_best_of_each_column_is_marked(write):
    text = "\n".join(selection_markdown(selection_order(rows_of(write))))
    (served,) = [line for line in text.splitlines() if line.startswith("| served NDCG@10 |")]
    (full,) = [line for line in text.splitlines() if line.startswith("| full HR@10 |")]
    assert "**0.80**" in full and "**" not in served
