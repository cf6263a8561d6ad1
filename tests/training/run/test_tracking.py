"""A real training, and what trackers hold of it afterwards: by TorchX's own reader, and by MLflow's."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.training.config import RunConfig
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.tracking import Tracking
from tests.training.test_train import config_of, data  # noqa: F401 (a fixture)

FSSPEC = "torchx.tracker.backend.fsspec:create"


def tracked(config: RunConfig, tracker: str) -> RunDirectory:
    with process_group():
        return train(replace(config, train=replace(config.train, tracker=tracker)), "best")


@pytest.fixture
def config(data: Path, tmp_path: Path) -> RunConfig:  # noqa: F811
    return config_of(data, tmp_path / "run", epochs=2)


def test_torchx_has_config_metrics_and_files(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tracked").mkdir()
    (tmp_path / "fsspec.conf").write_text(f"protocol=file\nroot_path={tmp_path / 'tracked'}\n")
    monkeypatch.setenv("TORCHX_TRACKERS", FSSPEC)
    monkeypatch.setenv(f"TORCHX_TRACKER_{FSSPEC.upper()}_CONFIG", str(tmp_path / "fsspec.conf"))
    monkeypatch.setenv("TORCHX_JOB_ID", "local_cwd://torchx/skipwise-1")
    run = tracked(config, "torchx")
    from torchx.tracker.api import AppRun, trackers_from_environ

    (tracker,) = trackers_from_environ()
    assert AppRun("", [tracker]).backends and [*tracker.run_ids()] == ["local_cwd://torchx/skipwise-1"]
    said = tracker.metadata("local_cwd://torchx/skipwise-1")
    assert said["recipe"] == "best" and said["table.dim"] == config.table.dim and said["run_dir"] == str(run.path)
    metrics = run.metrics()
    assert said["served/test/hr_at_10"] == metrics["served"]["test"]["hr@10"]
    assert said["train/seconds"] == metrics["train"]["seconds"]
    files = {one.name: Path(one.path) for one in tracker.artifacts("local_cwd://torchx/skipwise-1").values()}
    assert files == {"config.yaml": run.path / "config.yaml", "metrics.json": run.path / "metrics.json"}


def test_one_that_fails_later_costs_nothing(config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys):
    class Failing:
        calls = 0

        def add_metadata(self, run_id: str, **values: object) -> None:
            self.calls += 1
            if self.calls > 1:
                raise ConnectionError("the server is gone")

    module = ModuleType("failing")
    module.create = lambda config: Failing()
    monkeypatch.setitem(sys.modules, "failing", module)
    monkeypatch.setenv("TORCHX_TRACKERS", "failing:create")
    run = tracked(config, "torchx")
    said = "no longer reported to its tracker (the server is gone)"
    assert run.finished and capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize(("named", "sentence"), [("", "finds no tracker"), (FSSPEC, "cannot be used")])
def test_what_cannot_be_used_is_refused(config: RunConfig, named: str, sentence: str, monkeypatch: pytest.MonkeyPatch):
    """No tracker, and one without its config."""
    monkeypatch.setenv("TORCHX_TRACKERS", named) if named else monkeypatch.delenv("TORCHX_TRACKERS", raising=False)
    with pytest.raises(UserError, match=f"--train.tracker torchx {sentence}"):
        tracked(config, "torchx")


def test_mlflow_is_asked_for_by_name(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("skipwise.training.run.tracking.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlflow-skinny"):
        tracked(config, "mlflow")


def test_mlflow_has_curves_too(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    run = tracked(config, "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tests")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == run.path.name
    assert found.data.params["table.dim"] == str(config.table.dim) and found.data.tags["recipe"] == "best"
    assert found.data.metrics["served/test/hr_at_10"] == run.metrics()["served"]["test"]["hr@10"]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    for kind, name, figure in (("train", "loss", "loss"), ("validation", "hr_at_10", "hr@10")):
        history = client.get_metric_history(found.info.run_id, f"{kind}/{name}")
        expected = [(line["step"], line[figure]) for line in lines if line["kind"] == kind]
        assert sorted((one.step, one.value) for one in history) == expected
    assert {file.path for file in client.list_artifacts(found.info.run_id)} == {"config.yaml", "metrics.json"}
    with process_group():  # a run that was stopped, and is resumed
        tracking = Tracking(run)
        tracking.end()
        assert client.get_run(found.info.run_id).info.status == "KILLED"
        Tracking(run).end(run.metrics())
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert client.get_run(found.info.run_id).info.status == "FINISHED"
