"""A sweep: a function of its seed, continued where it was cut, blind to the test split, and its best is a config."""

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml

from components.recipes import RECIPES
from components.train import read_command_line
from datapipes.errors import UserError
from tests.components.conftest import refused
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from training.checkpoint import BEST
from training.run import RunDirectory
from training.study.space import Choices, Range, read_space, sections

TRACKS = 300
SMALL = {
    "data": {"batch_size": 32, "lanes": 4, "negatives": 40, "workers": 0},
    "table": {"dim": 16},
    "encoder": {"heads": 2, "hidden": 16, "dropout": 0.0},
    "train": {"epochs": 2, "matmul": "highest"},
    "evaluate": {"candidates": 100},
}
SPACE = {"loss.alpha": [0.25, 4.0], "table.learning_rate": {"low": 0.01, "high": 0.2, "log": True}}


@pytest.fixture
def folder(make_dataset, tmp_path: Path) -> Path:
    make_dataset(random_sessions(90, TRACKS), TRACKS).rename(tmp_path / "data")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path


def words(folder: Path, output: str, trials: int, space: str = "space.yaml", **options: str) -> tuple[str, ...]:
    named = {"data": folder / "data", "output": folder / output, "config": folder / "small.yaml", "trials": trials}
    named |= {"space": folder / space if space.endswith("yaml") else space} | options
    return ("sweep", *(word for name, value in named.items() for word in (f"--{name}", str(value))))


def trials_of(output: Path) -> list[dict]:
    return sorted(json.loads((output / "sweep.json").read_text())["trials"], key=lambda trial: trial["number"])


def test_a_sweep_continued_is_the_sweep_that_never_stopped(run, folder: Path):
    whole = run(*words(folder, "whole", 4))
    assert whole.code == 0, whole.said
    assert run(*words(folder, "parts", 2)).code == 0
    # What a killed process leaves: a trial that runs for ever, and half a directory.
    study = optuna.load_study(study_name="sweep", storage=_storage(folder / "parts"))
    study.sampler = optuna.samplers.TPESampler(seed=2)
    trial = study.ask()
    (
        trial.suggest_categorical("loss.alpha", [0.25, 4.0]),
        trial.suggest_float("table.learning_rate", 0.01, 0.2, log=True),
    )
    (folder / "parts" / "trials" / ".0002.partial").mkdir()
    assert run(*words(folder, "parts", 4)).code == 0
    expected, found = trials_of(folder / "whole"), trials_of(folder / "parts")
    assert [trial["number"] for trial in found] == [0, 1, 3, 4], "the trial that was cut short does not count"
    for one, other in zip(expected[:3], found[:3], strict=True):
        assert one["values"] == other["values"] and one["hr@10"] == other["hr@10"]
    assert not list((folder / "parts" / "trials").glob(".*"))
    assert run(*words(folder, "whole", 4)).code == 0 and trials_of(folder / "whole") == expected


def test_no_test_target_is_looked_at_and_only_the_best_weights_stay(run, folder: Path):
    assert run(*words(folder, "out", 3)).code == 0
    best = json.loads((folder / "out" / "sweep.json").read_text())["best"]
    folders = sorted((folder / "out" / "trials").iterdir())
    assert len(folders) == 3
    for place in folders:
        metrics = json.loads((place / "metrics.json").read_text())
        assert set(metrics) == {"uniform", "train"} and set(metrics["uniform"]) == {"validation"}
        assert (place / BEST).exists() == (int(place.name) == best)
        assert not (place / "ranks").exists()
    values = {trial["number"]: trial["hr@10"] for trial in trials_of(folder / "out")}
    assert values[best] == max(values.values())
    text = (folder / "out" / "sweep.md").read_text()
    error = (values[best] * (1 - values[best]) / 90) ** 0.5
    assert "no test target was looked at" in text and f"one standard error ({error:.4f}" in text


def test_the_best_is_a_config_file_of_train(run, folder: Path):
    assert run(*words(folder, "out", 2)).code == 0
    best = json.loads((folder / "out" / "sweep.json").read_text())["best"]
    kept = RunDirectory.open(str(folder / "out" / "trials" / f"{best:04}")).config
    (folder / "both.yaml").write_text(yaml.safe_dump({name: fields for name, fields in _merged(folder).items()}))
    _, config = read_command_line(["unidir-skip-track", "--config", str(folder / "both.yaml")])
    assert replace(config, run_dir="", data=replace(config.data, path="")) == replace(
        kept, run_dir="", data=replace(kept.data, path="")
    )


def _merged(folder: Path) -> dict:
    best = yaml.safe_load((folder / "out" / "best.yaml").read_text())
    return {name: SMALL.get(name, {}) | best.get(name, {}) for name in {*SMALL, *best}}


def test_a_grid_is_gone_through_once(run, folder: Path):
    (folder / "grid.yaml").write_text(yaml.safe_dump({"loss.alpha": [0.25, 1.0], "loss.beta": [0.5, 1.0]}))
    assert run(*words(folder, "out", 9, "grid.yaml")).code == 0
    tried = [tuple(trial["values"].values()) for trial in trials_of(folder / "out")]
    assert sorted(tried) == [(0.25, 0.5), (0.25, 1.0), (1.0, 0.5), (1.0, 1.0)]


def sweep_on_rank(arguments: tuple[str, ...]) -> None:
    from components.__main__ import run

    run(list(arguments))


@pytest.mark.ranks
def test_two_ranks_try_what_one_does(folder: Path):
    (folder / "grid.yaml").write_text(yaml.safe_dump({"loss.alpha": [0.25, 1.0]}))
    for ranks in (1, 2):
        run_on_ranks(folder, ranks, sweep_on_rank, words(folder, f"on-{ranks}", 2, "grid.yaml"))
    one, two = (trials_of(folder / f"on-{ranks}") for ranks in (1, 2))
    assert [trial["values"] for trial in one] == [trial["values"] for trial in two]
    assert [trial["hr@10"] for trial in one] == pytest.approx([trial["hr@10"] for trial in two])


def test_a_trial_that_the_config_refuses_is_told_and_passed(run, folder: Path):
    (folder / "heads.yaml").write_text(yaml.safe_dump({"encoder.heads": [2, 3], "table.dim": [16, 24]}))
    (folder / "small.yaml").write_text(
        yaml.safe_dump(SMALL | {"table": {"dim": 24}, "encoder": {"heads": 2, "hidden": 8}})
    )
    done = run(*words(folder, "mixed", 6, "heads.yaml"))
    assert done.code == 0, done.said
    states = {tuple(trial["values"].values()): trial["state"] for trial in trials_of(folder / "mixed")}
    assert len(states) == 4 and [values for values, state in states.items() if state == "refused"] == [(3, 16)]
    assert "must be a multiple of --encoder.heads 3" in (folder / "mixed" / "sweep.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recipe": "x"}, "there is no recipe 'x'"),
        ({"trials": "0"}, "--trials must be at least 1"),
        ({"space": "papers"}, "there is no space 'papers'"),
        ({"data": "nowhere"}, "manifest.json cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(run, folder: Path, options: dict, said: str):
    refused(run(*words(folder, "out", options.pop("trials", 2), **options)), said)
    assert not (folder / "out").exists()


def test_another_sweep_is_not_continued(run, folder: Path):
    assert run(*words(folder, "out", 1)).code == 0
    refused(run(*words(folder, "out", 2, seed="1")), "was swept with another seed: choose another --output")
    refused(run(*words(folder, "out", 2, "paper")), "was swept with another space")
    refused(run(*words(folder, "out", 2, recipe="unidir-skip-context")), "was swept with another recipe or --config")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("loss.alfa: [1.0]", "there is no field 'loss.alfa'"),
        ("loss.alpha: [one]", "'loss.alpha' must be of type float"),
        ("loss.temperature: [1.0, 0.0]", "--loss.temperature 0.0 must be positive"),
        ("loss.alpha: 1.0", "'loss.alpha' must be a list of choices"),
        ("loss.alpha: {low: 2, high: 1}", "with low below high"),
        ("table.learning_rate: {low: 0, high: 1, log: true}", "log above zero"),
        ("{}", "names no field"),
    ],
)
def test_a_space_that_no_config_takes_is_refused(content: str, said: str, tmp_path: Path):
    file = tmp_path / "space.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match="space.yaml") as caught:
        read_space(str(file), RECIPES["best"]())
    assert said in str(caught.value)


def test_spaces_as_they_are_read(tmp_path: Path):
    config = RECIPES["unidir-skip-track"]()
    assert read_space("paper", config)["optimizer.learning_rate"] == Choices((0.0001, 0.0005, 0.001, 0.005))
    assert read_space("extended", config).keys() > read_space("paper", config).keys()
    (tmp_path / "space.yaml").write_text(
        "{encoder.blocks: {low: 1, high: 3}, encoder.dropout: {low: 0, high: 0.6, step: 0.2}}"
    )
    space = read_space(str(tmp_path / "space.yaml"), config)
    assert space == {"encoder.blocks": Range(1, 3), "encoder.dropout": Range(0, 0.6, step=0.2)}
    assert sections({"loss.alpha": 1, "loss.beta": 2, "table.dim": 4}) == {
        "loss": {"alpha": 1, "beta": 2},
        "table": {"dim": 4},
    }


def _storage(output: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(output / "study.jsonl")))
