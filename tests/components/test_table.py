"""`table` as a user runs it: every model at every seed, resumed where it was left, refused where it cannot be right."""

import gc
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.common.locks import locked_for_all_ranks
from skipwise.components.recipes.table_models import MODELS, with_baselines
from skipwise.studies.baselines.measuring import BASELINES
from skipwise.studies.config import PAPER_MODELS, StudyConfig
from skipwise.studies.results_table import run_study
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import from_mapping
from tests.components.conftest import refused
from tests.conftest import random_sessions

TRACKS = 300
SMALL = {
    "data": {"batch_size": 32, "lanes": 4, "negatives": 40, "workers": 0},
    "table": {"dim": 16},
    "encoder": {"heads": 2, "hidden": 16},
    "train": {"epochs": 2},
    "evaluate": {"candidates": 100},
}
ASKED = ("--seeds", "2", "--recipes", "unidir-skip-track")


@pytest.fixture
def words(make_dataset, tmp_path: Path) -> tuple[str, ...]:
    """`table` with data, an output and a small config."""
    data = make_dataset(random_sessions(90, TRACKS), TRACKS)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return ("table", "--data", str(data), "--output", str(tmp_path / "out"), "--config", str(tmp_path / "small.yaml"))


def hit_rates(run: Path, protocol: str = "paper") -> dict:
    return json.loads((run / "metrics.json").read_text())[protocol]


def live_tables() -> int:
    """How many tensors of the track table's shape this process still holds."""
    kinds = (torch.Tensor, torch.nn.Parameter)
    shape = (TRACKS, SMALL["table"]["dim"])
    return sum(type(one) in kinds and one.shape == shape for one in gc.get_objects())


def test_every_model_at_every_seed_and_again_without_training(run, words, tmp_path: Path):
    out = tmp_path / "out"
    done = run(*words, *ASKED)
    assert done.code == 0, done.said
    assert live_tables() == 0, "memory grows with every run"
    names = ["unidir-seed0", "unidir-seed1", "unidir-skip-track-seed0", "unidir-skip-track-seed1"]
    references = [baseline.name for baseline in BASELINES]
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted([*names, *references])
    assert {path.name for path in out.iterdir()} == {"runs", "table.md", "table.json", "table.png"}
    table = json.loads((out / "table.json").read_text())
    comparisons = {comparison["protocol"]: comparison for comparison in table["comparisons"]}
    assert list(comparisons) == ["served", "full", "paper"]
    rows = comparisons["paper"]["rows"]
    assert list(rows) == ["unidir", "unidir-skip-track", *references]
    for model in ("unidir", "unidir-skip-track"):
        tested = [hit_rates(out / "runs" / f"{model}-seed{seed}")["test"]["hr@10"] for seed in (0, 1)]
        assert tested[0] != tested[1], "a seed must change the run"
        assert rows[model]["hr@10"]["mean"] == pytest.approx(sum(tested) / 2)
        for protocol, comparison in comparisons.items():
            tested = [hit_rates(out / "runs" / f"{model}-seed{seed}", protocol)["test"]["mrr"] for seed in (0, 1)]
            assert comparison["rows"][model]["mrr"]["mean"] == pytest.approx(sum(tested) / 2)
    assert all(comparison["targets"] == 90 for comparison in comparisons.values())
    assert set(table["made"]["runs"]) == set(names)
    written = (out / "table.md").read_text()
    assert "Unidir S+, c = e (`unidir-skip-track`)" in written and ".5867" in written
    assert ".5867" not in written.partition("## `paper`")[0], "the paper's figures are of its own protocol"
    assert "- best epoch by validation served NDCG@10" in written
    (note,) = [line for line in written.splitlines() if line.startswith("- minutes and epochs of training")]
    minutes = [sum(table["made"]["runs"][name]["seconds"] for name in names[at : at + 2]) / 120 for at in (0, 2)]
    assert f"`unidir` {minutes[0]:.1f} and {SMALL['train']['epochs']}, `unidir-skip-track` {minutes[1]:.1f}" in note
    last = {name for name in names if table["made"]["runs"][name]["best_epoch"] == SMALL["train"]["epochs"]}
    (note,) = [line for line in written.splitlines() if "best epoch is " in line]
    assert {name for name in names if f"`{name}`" in note} == last

    # One run is cut short: only that one goes on, to the same figures.
    lost = out / "runs" / "unidir-seed1"
    before = hit_rates(lost), (out / "runs" / "unidir-seed0" / "metrics.json").stat().st_mtime_ns
    (lost / "metrics.json").unlink()
    done = run(*words, *ASKED)
    assert done.code == 0 and "4 runs of 2 models, 3 of them there already" in done.said
    assert (hit_rates(lost), (out / "runs" / "unidir-seed0" / "metrics.json").stat().st_mtime_ns) == before
    assert not list((out / "runs").glob(".*")) and (out / "table.md").read_text() == written

    # A model trained after others in one process is the model that train makes of the same config.
    alone = tmp_path / "alone"
    config = out / "runs" / "unidir-skip-track-seed1" / "config.yaml"
    assert run("train", "unidir-skip-track", "--config", str(config), "--run-dir", str(alone)).code == 0
    assert hit_rates(alone) == hit_rates(config.parent)


@pytest.mark.parametrize("section", [{"selection": {"metric": "mrr"}}, {"evaluate": {"candidates": 50}}])
def test_models_that_are_not_evaluated_alike_are_refused(make_dataset, section: dict, tmp_path: Path):
    """As a recipe of one's own may be: another choice of the best epoch is an advantage of one row."""
    data = make_dataset(random_sessions(20, TRACKS), TRACKS)
    other = replace(MODELS["unidir-skip-track"], recipe=lambda: from_mapping(RunConfig(), section, ""))
    models = {"unidir": MODELS["unidir"], "unidir-skip-track": other}
    config = StudyConfig(data=str(data), output=str(tmp_path / "out"), seeds=1)
    with pytest.raises(
        UserError, match="not evaluated alike: set the same evaluate and selection sections by --config"
    ):
        run_study(config, models)
    assert not (tmp_path / "out").exists()


def test_one_job_at_a_time_writes_a_table(run, words, tmp_path: Path):
    with process_group(), locked_for_all_ranks(tmp_path / "out"):
        refused(run(*words, *ASKED), f"out is in use by process {os.getpid()} on", "or choose another --output")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_config_is_refused_not_mixed(run, words, tmp_path: Path):
    assert run(*words, "--seeds", "1", "--recipes", "unidir").code == 0
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL | {"train": {"epochs": 3}}))
    refused(run(*words, "--seeds", "1", "--recipes", "unidir"), "unidir-seed0 has another config", "remove it")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL | {"selection": {"targets": "kept"}}))
    refused(run(*words, "--seeds", "1", "--recipes", "unidir"), "unidir-seed0 has another config", "remove it")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--recipes", "unidirr"), ("there is no model 'unidirr'", "expected --recipes out of unidir")),
        (("--seeds", "0"), ("--seeds must be at least 1",)),
        (("--recipes",), ("--recipes",)),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(run, words, extra: tuple, said: tuple, tmp_path: Path):
    refused(run(*words, *extra), *said)
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_refused(run, words, tmp_path: Path):
    (tmp_path / "out").write_text("")
    refused(run(*words, *ASKED), "out is a file: name a directory with --output")
    (tmp_path / "out").unlink()
    (tmp_path / "small.yaml").write_text("data: {negative: 3}")
    refused(run(*words, *ASKED), "small.yaml: there is no field 'data.negative'")
    shutil.rmtree(words[2])
    refused(run(*words[:5], *ASKED), "manifest.json cannot be read")
    assert not (tmp_path / "out").exists()


def test_rows_bring_what_they_are_compared_with():
    assert with_baselines(("unidir-skip-track", "unidir")) == ["unidir", "unidir-skip-track"]
    assert with_baselines(("gbce", "shared")) == ["unidir", "shared-blind", "gbce", "shared"]
    assert with_baselines(PAPER_MODELS) == list(PAPER_MODELS)
    with pytest.raises(UserError, match="there is no model 'x'"):
        with_baselines(("x",))


def test_every_model_has_its_place():
    for name, model in MODELS.items():
        assert model.baseline is None or model.baseline in MODELS
        assert (model.paper is None) == (name not in PAPER_MODELS)
        model.recipe()
