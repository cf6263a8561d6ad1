"""`evaluate --dial` of a run against the evaluator at that dial, differences by hand, and what is kept of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import skipwise
from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.studies.dial_evaluation import evaluate_dials
from skipwise.training.evaluation.evaluator import Evaluator, what_to_measure
from skipwise.training.evaluation.records import read_target_ranks
from skipwise.training.run.directory import RunDirectory
from tests.components.conftest import run  # noqa: F401  a fixture
from tests.conftest import random_sessions, write_dataset
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import save_untrained, small

TRACKS, DIAL = 60, 3.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs with and without a keep head, untrained, with large weights."""
    folder = tmp_path_factory.mktemp("dials")
    split = {"test": 25, "train": 15, "validation": 20}
    write_dataset(folder / "data", random_sessions(60, TRACKS), TRACKS, split=split)
    for name, keep in (("keep", 0.5), ("blind", 0.0)):
        config = small("unidir", folder)
        config = replace(
            config,
            run_dir=str(folder / name),
            data=replace(config.data, inputs=("skips",)),
            table=replace(config.table, init_bound=2.0),
            loss=replace(config.loss, keep=keep, keep_dim=4),
            evaluate=replace(config.evaluate, batch_size=24),
        )
        run_on_ranks(folder, 1, save_untrained, config)
    return folder


def opened(folder: Path, name: str = "keep") -> RunDirectory:
    return RunDirectory.open(str(folder / name))


def measure_at(folder: Path, dial: float, record_in: Path) -> dict:
    asked = what_to_measure(opened(folder))
    config = replace(asked.config, evaluate=replace(asked.config.evaluate, dial=dial))
    with process_group(), asked.best_model(opened(folder)) as model:
        evaluator = Evaluator(config, model)
        return evaluator.measure(("served",), "test", asked.held_out["test"], 0, record_in)["served"]


def test_rows_are_those_of_the_evaluator_and_differences_are_by_session(folder: Path, tmp_path: Path):
    found = skipwise.evaluate(folder / "keep", dial=[DIAL, "auto"])["dial"]
    assert found == json.loads((folder / "keep" / "metrics.json").read_text())["dial"]
    metrics = {dial: measure_at(folder, dial, tmp_path / f"{dial:g}") for dial in (0.0, DIAL)}
    recorded = read_target_ranks(folder / "keep", "dial-3", "test")
    for dial, wanted in metrics.items():
        row = found[f"{dial:g}"]
        assert row["targets"] == wanted["targets"] and row["pairs"] == wanted["pairs"] > 0
        for name in ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10"):
            assert row["metrics"][name] == pytest.approx(wanted[name])
        for name in ("hr@10", "kept_hr@10", "skipped_hr@10", "pairs_in_order"):
            assert row["figures"][name]["mean"] == pytest.approx(wanted[name])
    by_evaluator = read_target_ranks(tmp_path / "3", "served", "test")
    for name in ("session", "position", "target", "candidates", "repeated", "pairs", "pairs_won"):
        np.testing.assert_array_equal(getattr(recorded, name), getattr(by_evaluator, name))
    np.testing.assert_array_equal(
        recorded.rank, np.where(by_evaluator.rank <= 20, by_evaluator.rank, 0), "no rank beyond the 20 listed"
    )
    differs = found["3"]["difference"]
    assert "difference" not in found["0"] and differs["pairs_in_order"][1] < differs["pairs_in_order"][2]
    for name in ("hr@10", "kept_hr@10", "pairs_in_order"):
        assert differs[name][0] == pytest.approx(metrics[DIAL][name] - metrics[0.0][name])
    gaps = [metrics[dial]["kept_hr@10"] - metrics[dial]["skipped_hr@10"] for dial in (0.0, DIAL)]
    assert differs["gap_hr@10"][0] == pytest.approx(gaps[1] - gaps[0])


@pytest.mark.ranks
def test_any_number_of_ranks_and_what_is_printed(folder: Path, run):  # noqa: F811
    done = run("evaluate", "--run", str(folder / "keep"), "--dial", "3", "0.5")
    assert done.code == 0 and "dial 3 less 0: HR@10 " in done.said and "dial 0.5 less 0: " in done.said
    found = skipwise.evaluate(folder / "keep", dial=3)["dial"]
    for dial in ("0", "3"):
        assert f" {dial} " + " ".join(f"{value:.4f}" for value in found[dial]["metrics"].values()) in done.said
    assert "of 183 test targets among what is recommended (served)" in done.said.lower()
    for ranked in run_on_ranks(folder, 2, on_ranks, folder):
        for name, figure in found["3"]["figures"].items():
            assert ranked["3"]["figures"][name]["mean"] == pytest.approx(figure["mean"], abs=1e-6)
        assert ranked["3"]["difference"]["hr@10"] == pytest.approx(found["3"]["difference"]["hr@10"], abs=1e-6)


def on_ranks(folder: Path) -> dict:
    with process_group():
        return evaluate_dials(opened(folder), [DIAL])


def test_other_targets_are_printed_and_not_written(folder: Path):
    before = (folder / "keep" / "metrics.json").read_bytes()
    found = skipwise.evaluate(folder / "keep", dial=1.0, positions="last")["dial"]
    assert found["1"]["targets"] == 25 and (folder / "keep" / "metrics.json").read_bytes() == before
    assert not (folder / "keep" / "ranks" / "dial-1-test").exists()


def test_auto_is_the_exports(folder: Path):
    with process_group():
        found = evaluate_dials(opened(folder), ["auto"], positions="last", exported=2.0)
    assert list(found) == ["0", "2"]


def test_refused(folder: Path, run):  # noqa: F811
    with process_group(), pytest.raises(UserError, match="blind has none: train a run with --loss.keep above 0"):
        evaluate_dials(opened(folder, "blind"), [DIAL])
    for words, said in (
        (("--dial", "x"), "--dial 'x' must be auto or lie in 0..100: 0 is off"),
        (("--dial", "1", "-2"), "--dial -2.0 must be auto or lie in 0..100"),
        (("--dial", "1", "--protocol", "full"), "leave --protocol and --search out"),
        (("--dial", "1", "--export", "e"), "--dial takes auto alone from --export"),
    ):
        done = run("evaluate", "--run", str(folder / "keep"), *words)
        assert done.code == 2 and said in done.said
