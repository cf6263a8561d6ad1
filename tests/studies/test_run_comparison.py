"""Two runs side by side, and why they may not be compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from skipwise.common.errors import UserError
from skipwise.studies.run_comparison import compare_runs
from skipwise.training.config_fields import nest
from skipwise.training.run.directory import RunDirectory

FIGURES = {name: 0.5 for name in ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr")} | {"targets": 900}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., RunDirectory]:
    """A finished run's directory, with fields of its config and parts of its record and metrics replaced."""

    def run(name: str, metrics: dict[str, Any], config: dict[str, Any] | None = None, **record: Any) -> RunDirectory:
        (tmp_path / name).mkdir()
        content = {
            "schema_version": 2, "recipe": "best", "ranks": 1, "vocabulary_hash": "0" * 64,
            "counts": {"sessions": 900, "plays": 9000, "tracks": 30}, "rows": 30, "rows_hash": "0" * 64, "versions": {},
        } | record  # fmt: skip
        (tmp_path / name / "run.json").write_text(json.dumps(content))
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(nest(config or {})))
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        return RunDirectory.open(str(tmp_path / name))

    return run


def test_each_run_has_a_line_and_its_difference(write, tmp_path: Path):
    """By every protocol, in the order of `PROTOCOLS`; what one run alone was measured on is there as well."""
    first = write("a", {"paper": {"validation": FIGURES, "test": FIGURES}, "train": {"epochs": 1}})
    second = write(
        "b",
        {"full": {"test": FIGURES}, "paper": {"test": FIGURES | {"hr@10": 0.55}}, "served": {"test": FIGURES}},
        {"evaluate.batch_size": 64},
        recipe="unidir",
    )
    lines = compare_runs([first, second]).splitlines()
    assert lines[:2] == [f"A: {tmp_path}/a (best)", f"B: {tmp_path}/b (unidir)"]
    cells = [line.split() for line in lines[3:-1]]
    assert [row[:3] for row in cells] == [
        ["served", "test", "B"],
        ["full", "test", "B"],
        ["paper", "validation", "A"],
        ["paper", "test", "A"],
        ["paper", "test", "B"],
        ["paper", "test", "B-A"],
    ]
    assert lines[2].split()[-2:] == ["MRR", "targets"]
    assert cells[4][3:] == ["0.5000", "0.5000", "0.5500", "0.5000", "0.5000", "0.5000", "900"]
    assert cells[5][3:] == ["+0.0000", "+0.0000", "+0.0500", "+0.0000", "+0.0000", "+0.0000"]


def test_how_skips_are_foreseen_is_a_line_a_run(write):
    """Of the first protocol that was measured; columns that no run has are left out. Dials may differ."""
    skips = {"next_skip_auc": 0.8125, "next_skip_ece": 0.25, "next_skip_maa": None, "pairs": 9, "pairs_in_order": 0.5}
    first = write("a", {"served": {"test": FIGURES}})
    second = write("b", {"full": {"test": FIGURES | skips}}, {"evaluate.dial": 1.0, "loss.keep": 0.5})
    lines = compare_runs([first, second]).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("skips"))
    assert lines[place].split() == "skips split run next-skip AUC ECE pairs by ranking".split()
    assert [line.split() for line in lines[place + 1 : place + 3]] == [
        ["test", "A", "-", "-", "-"],
        ["test", "B", "0.8125", "0.2500", "0.5000"],
    ]
    assert "\nskips" not in compare_runs([first, first])


@pytest.mark.parametrize(
    ("config", "record", "said"),
    [
        ({"evaluate.seed": 1}, {}, "its config has evaluate.seed 1, not 0"),
        ({"evaluate.candidates": 100}, {}, "evaluate.candidates 100, not 1000"),
        ({"evaluate.positions": "last"}, {}, "evaluate.positions last, not all"),
        ({"evaluate.sessions": 100}, {}, "evaluate.sessions 100, not 0"),
        ({}, {"data_hash": "2" * 64}, "or different splits of one"),
        ({}, {"data_hash": None, "vocabulary_hash": "1" * 64}, "; train both on one"),
        ({}, {"data_hash": None, "counts": {"sessions": 901, "plays": 9000, "tracks": 30}}, "different data sets"),
    ],
)
def test_runs_that_were_not_measured_alike_are_refused(write, config: dict, record: dict, said: str):
    runs = [
        write("a", {"paper": {"test": FIGURES}}, data_hash="1" * 64),
        write("b", {"paper": {"test": FIGURES}}, config, **({"data_hash": "1" * 64} | record)),
    ]
    with pytest.raises(UserError, match="b cannot be compared with .*a: ") as caught:
        compare_runs(runs)
    assert said in str(caught.value)


def test_a_refit_beside_another_and_the_ceiling_of_served_are_said(write):
    def served(new: int) -> dict[str, Any]:
        return {"served": {"test": FIGURES | {"new_targets": new}}, "train": {}}

    plain, refit = write("a", served(675)), write("b", served(675), {"train.refit": True})
    said = compare_runs([plain, refit, write("c", served(450))])
    assert "Refit on the validation targets, before the test: B; not A, C. Part of their difference is" in said
    assert "new to their session: test 0.7500 (A, B); test 0.5000 (C)." in said
    assert "Refit" not in compare_runs([refit, refit]) + compare_runs([plain, plain])


def test_figures_that_are_missing_are_named(write):
    runs = [write("a", {"paper": {"test": FIGURES}}), write("b", {"paper": {"test": {"hr@1": 0.5}}})]
    with pytest.raises(UserError, match="b/metrics.json lacks figures of 'paper' 'test': measure it again"):
        compare_runs(runs)


def test_figures_of_an_older_version_are_measured_again(write, tmp_path: Path):
    """They named `full` what left out the tracks heard before, counted sessions, and had `uniform`."""
    older = {name: value for name, value in FIGURES.items() if name != "targets"} | {"sessions": 900}
    runs = [write("a", {"full": {"test": FIGURES}}), write("b", {"uniform": {"test": older}, "full": {"test": older}})]
    with pytest.raises(UserError, match=f"measure it again with evaluate --run {tmp_path}/b --protocol full"):
        compare_runs(runs)
    alone = [write("c", {"full": {"test": FIGURES}}), write("d", {"uniform": {"test": older}})]
    said = compare_runs(alone).splitlines()
    assert f"B has no figures by served, full, paper: evaluate --run {tmp_path}/d measures them" in said
    assert not any(line.startswith("A has") for line in said)


def test_a_run_without_metrics_is_refused(write):
    runs = [write("a", {"paper": {"test": FIGURES}}), write("b", {})]
    (runs[1].path / "metrics.json").unlink()
    with pytest.raises(UserError, match="b has not finished training: show --run .*b prints how far it is"):
        compare_runs(runs)
