"""A sweep: a function of its seed, continued where it was cut, blind to the test split, and its best is a config."""

import gc
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.common.locks import locked_for_all_ranks
from skipwise.components.recipes import RECIPES
from skipwise.components.train import read_command_line
from skipwise.studies import sweep as search
from skipwise.studies.search_space import read_space
from skipwise.studies.sweep_report import _importances, write_sweep
from skipwise.studies.sweep_study import Sweep, best_trial, finished, open_study
from skipwise.training.config_fields import from_mapping
from skipwise.training.loop import train
from skipwise.training.run.directory import CHECKPOINTS, RunDirectory
from tests.components.conftest import refused
from tests.conftest import random_sessions, write_dataset
from tests.ranks import run_on_ranks

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
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"loss.alpha": [0.25, 1.0, 4.0]}))
    return tmp_path


def words(folder: Path, output: str, trials: int, space: str = "space.yaml", **options: str) -> tuple[str, ...]:
    named = {"data": folder / "data", "output": folder / output, "config": folder / "small.yaml", "trials": trials}
    named |= {"space": folder / space if space.endswith("yaml") else space} | options
    return ("sweep", *(word for name, value in named.items() for word in (f"--{name}", str(value))))


def trials_of(output: Path) -> list[dict]:
    return sorted(json.loads((output / "sweep.json").read_text())["trials"], key=lambda trial: trial["number"])


def cut_short(monkeypatch, number: int, after: bool) -> None:
    """The process dies in the `number`-th training from here on, before it or `after` it."""
    left = iter(range(number, -1, -1))

    def train_or_die(*arguments, **options):
        dies = next(left, None) == 1
        if not dies or after:
            train(*arguments, **options)
        if dies:
            raise KeyboardInterrupt

    monkeypatch.setattr(search, "train", train_or_die)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("space", "trials"), [("space.yaml", 5), ("grid.yaml", 3)])
def test_a_sweep_cut_short_is_the_sweep_that_never_stopped(
    run, monkeypatch, folder: Path, space: str, trials: int, after: bool
):
    """Cut in its second trial and in its last, which for the grid is the last point of all."""
    assert run(*words(folder, "whole", trials, space)).code == 0
    for number in (2, trials - 1):
        cut_short(monkeypatch, number, after)
        assert run(*words(folder, "parts", trials, space)).code == 130
    monkeypatch.undo()
    done = run(*words(folder, "parts", trials, space))
    assert done.code == 0, done.said
    expected, found = trials_of(folder / "whole"), trials_of(folder / "parts")
    assert len(found) == len(expected) == trials
    for one, other in zip(expected, found, strict=True):
        assert one | {"number": 0} == other | {"number": 0}
    left = {path.name for path in (folder / "parts" / "trials").iterdir()}
    assert left == {f"{trial['number']:04}" for trial in found}, "what was cut short leaves nothing behind"
    assert run(*words(folder, "whole", trials, space)).code == 0 and trials_of(folder / "whole") == expected


def test_one_job_at_a_time_sweeps(run, folder: Path):
    with process_group(), locked_for_all_ranks(folder / "out"):
        refused(
            run(*words(folder, "out", 1)), f"out is in use by process {os.getpid()} on", "or choose another --output"
        )
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize("cut", ['{"op_code":4,"worker_id":"a', '{"op', '{"op_code":4,"wor\n', "\0" * 70, "\0\0\n"])
def test_what_a_process_killed_while_it_wrote_left_is_not_in_the_way(folder: Path, cut: str):
    """Optuna's own lock, for which it would wait 30 s, and half a line or zeros, with which no study could be read."""
    config = RECIPES["unidir"]()
    sweep = Sweep(folder / "out", "unidir", config, config, {}, 0, {"seed": "0"})
    study = open_study(sweep)
    study.tell(study.ask(), 0.5)
    file = folder / "out" / "study.jsonl"
    whole = file.read_text()
    for number in range(2):
        file.write_text(file.read_text() + cut)
        Path(f"{file}.lock").symlink_to(file)
        began = time.monotonic()
        study = open_study(sweep)
        study.tell(study.ask(), 0.5)
        assert len(finished(study)) == number + 2 and time.monotonic() - began < 10
        assert file.read_text().startswith(whole) and not Path(f"{file}.lock").is_symlink()


@pytest.mark.parametrize("line", ['{"op_code": 99}', "[1]", "[" * 9000])
def test_lines_that_optuna_did_not_write_are_refused(folder: Path, line: str):
    config = RECIPES["unidir"]()
    sweep = Sweep(folder / "out", "unidir", config, config, {}, 0, {"seed": "0"})
    open_study(sweep)
    file = folder / "out" / "study.jsonl"
    whole = file.read_text()
    file.write_text(f"{whole}{line}\n{whole}")
    with pytest.raises(UserError, match="study.jsonl is not a study that sweep wrote: choose another --output"):
        open_study(sweep)


def test_a_study_of_terabytes_is_refused(folder: Path):
    (folder / "out").mkdir()
    with open(folder / "out" / "study.jsonl", "wb") as stream:
        stream.truncate(1 << 40)
    config = RECIPES["unidir"]()
    with pytest.raises(UserError, match="study.jsonl has 1,099,511,627,776 bytes, expected at most 1,073,741,824"):
        open_study(Sweep(folder / "out", "unidir", config, config, {}, 0, {}))


def test_a_file_that_is_no_study_is_left_as_it_is(folder: Path):
    (folder / "out").mkdir()
    (folder / "out" / "study.jsonl").write_text("notes\nof mine")
    config = RECIPES["unidir"]()
    with pytest.raises(UserError, match="is not a study that sweep wrote: choose another --output"):
        open_study(Sweep(folder / "out", "unidir", config, config, {}, 0, {}))
    assert (folder / "out" / "study.jsonl").read_text() == "notes\nof mine"


def test_memory_does_not_grow_with_trials(run, folder: Path):
    assert run(*words(folder, "out", 2)).code == 0
    shape, kinds = (TRACKS, SMALL["table"]["dim"]), (torch.Tensor, torch.nn.Parameter)
    assert not any(type(one) in kinds and one.shape == shape for one in gc.get_objects())


def test_no_test_target_is_looked_at_and_only_the_best_weights_stay(run, folder: Path):
    assert run(*words(folder, "out", 3)).code == 0
    best = json.loads((folder / "out" / "sweep.json").read_text())["best"]
    folders = sorted((folder / "out" / "trials").iterdir())
    assert len(folders) == 3
    for place in folders:
        metrics = json.loads((place / "metrics.json").read_text())
        assert set(metrics) == {"served", "train"} and set(metrics["served"]) == {"validation"}
        assert (place / CHECKPOINTS).exists() == (int(place.name) == best)
        assert not (place / "ranks").exists()
    values = {trial["number"]: trial["value"] for trial in trials_of(folder / "out")}
    assert all(trial["value"] == trial["ndcg@10"] for trial in trials_of(folder / "out"))
    assert values[best] == max(values.values())
    text = (folder / "out" / "sweep.md").read_text()
    error = (values[best] * (1 - values[best]) / 90) ** 0.5
    assert "no test target was looked at" in text and f"one standard error ({error:.4f}" in text
    assert f"trial {best}, validation served NDCG@10 {values[best]:.4f} on 90 sessions" in text


@pytest.mark.parametrize(
    ("selection", "protocol", "name"),
    [
        ({"metric": "hr@1", "protocol": "paper"}, "paper", "hr@1"),
        ({"metric": "mrr", "protocol": "served", "targets": "kept"}, "served", "kept_mrr"),
    ],
)
def test_trials_are_ranked_by_the_selection(run, folder: Path, selection: dict, protocol: str, name: str):
    """As each run's own `metrics.json` has it, which holds the validation of that protocol alone."""
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL | {"selection": selection}))
    assert run(*words(folder, "out", 3, "grid.yaml")).code == 0
    found = {}
    for trial in trials_of(folder / "out"):
        place = folder / "out" / "trials" / f"{trial['number']:04}"
        (measured, _) = json.loads((place / "metrics.json").read_text()).items()
        assert measured[0] == protocol and set(measured[1]) == {"validation"}
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        epochs = [line[name] for line in lines if line["kind"] == "validation"]
        found[trial["number"]] = max(epochs)
        assert trial["value"] == max(epochs) == measured[1]["validation"][name]
        assert trial["best_epoch"] == 1 + epochs.index(max(epochs))
    content = json.loads((folder / "out" / "sweep.json").read_text())
    assert found[content["best"]] == max(found.values())
    assert [trial["value"] for trial in content["trials"]] == sorted(found.values(), reverse=True)
    words_of = f"{protocol} {selection['metric'].upper()}" + " of kept targets" * ("targets" in selection)
    assert content["selection"] == words_of and words_of in (folder / "out" / "sweep.md").read_text()


def test_the_best_is_a_config_file_of_train(run, folder: Path):
    budget = {"epochs": 2, "patience": 1, "log_every": 3}
    chosen = {"metric": "mrr", "sessions": 80}
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL | {"train": SMALL["train"] | budget, "selection": chosen}))
    assert run(*words(folder, "out", 2)).code == 0
    best = json.loads((folder / "out" / "sweep.json").read_text())["best"]
    kept = RunDirectory.open(str(folder / "out" / "trials" / f"{best:04}")).config
    _, config = read_command_line(["unidir-skip-track", "--config", str(folder / "out" / "best.yaml")])
    # The trial's config but for its data, its budget and what changes no figure.
    plain = RECIPES["unidir-skip-track"]()
    data = replace(kept.data, path=plain.data.path, workers=plain.data.workers)
    train = replace(kept.train, **{name: getattr(plain.train, name) for name in budget})
    selection = replace(kept.selection, sessions=plain.selection.sessions)
    assert config == replace(kept, run_dir="", data=data, train=train, selection=selection)
    assert yaml.safe_load((folder / "out" / "best.yaml").read_text()) == {
        "data": {"batch_size": 32, "lanes": 4, "negatives": 40},
        "table": {"dim": 16, "learning_rate": kept.table.learning_rate},
        "encoder": {"hidden": 16, "heads": 2, "dropout": 0.0},
        "loss": {"alpha": kept.loss.alpha},
        "train": {"matmul": "highest"},
        "selection": {"metric": "mrr"},
        "evaluate": {"candidates": 100},
    }


def test_a_budget_that_was_searched_is_in_the_best(run, folder: Path):
    (folder / "grid.yaml").write_text(yaml.safe_dump({"train.epochs": [1]}))
    assert run(*words(folder, "out", 1, "grid.yaml")).code == 0
    assert yaml.safe_load((folder / "out" / "best.yaml").read_text())["train"] == {"epochs": 1, "matmul": "highest"}


def metrics_of(ndcg: float, hit_rate: float, kept_ndcg: float, kept: int = 6) -> dict[str, float]:
    """A validation of nine sessions."""
    counts = {"sessions": 9, "targets": 9, "kept_targets": kept}
    return {"ndcg@10": ndcg, "hr@10": hit_rate, "hr@1": hit_rate / 2, "kept_ndcg@10": kept_ndcg} | counts


@pytest.mark.parametrize(
    ("selection", "best", "epoch", "error_of"),
    [
        ({}, 1, 2, (0.6, 9)),
        ({"metric": "hr@10"}, 0, 1, (0.9, 9)),
        ({"targets": "kept"}, 2, 1, (0.8, 6)),
    ],
)
def test_the_selection_decides_where_hit_rates_would_not(
    monkeypatch, tmp_path: Path, selection: dict, best: int, epoch: int, error_of: tuple[float, int]
):
    """Three trials of two epochs: the first has the best HR@10, the second NDCG@10, the third that of kept targets."""

    def train_as_told(config, recipe, watch, test):
        Path(config.run_dir).mkdir(parents=True)
        for number, metrics in enumerate(next(told), start=1):
            assert not watch(number, metrics)

    told = iter(
        [
            [metrics_of(0.3, 0.9, 0.2), metrics_of(0.2, 0.8, 0.1)],
            [metrics_of(0.5, 0.7, 0.3), metrics_of(0.6, 0.6, 0.4)],
            [metrics_of(0.4, 0.5, 0.8), metrics_of(0.5, 0.4, 0.7)],
        ]
    )
    monkeypatch.setattr(search, "train", train_as_told)
    plain = from_mapping(RECIPES["unidir"](), {"train": {"epochs": 2}, "selection": selection}, "")
    sweep = Sweep(tmp_path / "out", "unidir", plain, plain, {"loss.beta": FloatDistribution(0.1, 1.0)}, 0, {})
    study = open_study(sweep)
    for _ in range(3):
        assert search.run_trial(sweep, study)
    write_sweep(sweep, study)
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert content["best"] == content["trials"][0]["number"] == best == best_trial(study).number
    assert content["trials"][0]["best_epoch"] == epoch
    value, sessions = error_of
    assert content["trials"][0]["value"] == value
    assert content["standard_error"] == pytest.approx((value * (1 - value) / sessions) ** 0.5)


def test_a_trial_below_the_median_is_pruned(monkeypatch, tmp_path: Path):
    """Trials that are told these figures: Optuna waits for five of them, then for the third epoch.

    One that falls behind in its last epoch alone has been trained whole: it is complete.
    """

    def train_as_told(config, recipe, watch, test):
        Path(config.run_dir).mkdir(parents=True)
        first, last = next(rates)
        told = [metrics_of(rate, 0.5, 0.5) for rate in [first] * 4 + [last]]
        epochs.append(next((epoch for epoch, metrics in enumerate(told, start=1) if watch(epoch, metrics)), 5))

    rates = iter([(0.5, 0.5), (0.4, 0.6), (0.3, 0.6), (0.6, 0.6), (0.7, 0.7), (0.2, 0.2), (0.55, 0.1), (0.8, 0.8)])
    epochs: list[int] = []
    monkeypatch.setattr(search, "train", train_as_told)
    plain = from_mapping(RECIPES["unidir"](), {"train": {"epochs": 5}}, "")
    sweep = Sweep(tmp_path / "out", "unidir", plain, plain, {"loss.beta": FloatDistribution(0.1, 1.0)}, 0, {})
    study = open_study(sweep)
    for _ in range(8):
        assert search.run_trial(sweep, study)
    states = [trial.state.name for trial in finished(study)]
    assert states == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE", "COMPLETE"] and epochs == [5] * 5 + [3, 5, 5]
    assert best_trial(study).number == 7


def test_importances_name_what_matters():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    for number in range(24):
        assert number >= 20 or not _importances(study), "too few trials to tell"
        trial = study.ask()
        alpha, _ = (trial.suggest_float(field, 0, 1) for field in ("loss.alpha", "loss.beta"))
        study.tell(trial, alpha)
    assert _importances(study)["loss.alpha"] > 0.7


def test_a_grid_is_gone_through_once(run, folder: Path):
    (folder / "grid.yaml").write_text(yaml.safe_dump({"loss.alpha": [0.25, 1.0], "loss.beta": [0.5, 1.0]}))
    assert run(*words(folder, "out", 9, "grid.yaml")).code == 0
    tried = [tuple(trial["values"].values()) for trial in trials_of(folder / "out")]
    assert sorted(tried) == [(0.25, 0.5), (0.25, 1.0), (1.0, 0.5), (1.0, 1.0)]
    paper, extended = (read_space(name, RECIPES["unidir-skip-track"]()) for name in ("paper", "extended"))
    orders = {str(search.grid(paper, seed)) for seed in (0, 0, 1)}
    assert len(orders) == 2 and len(search.grid(paper, 0)) == 64
    assert search.grid(extended, 0) is None
    assert search.grid({"loss.alpha": CategoricalDistribution(range(10_001))}, 0) is None


def sweep_on_rank(arguments: tuple[str, ...]) -> None:
    from skipwise.components.__main__ import run

    run(list(arguments))


@pytest.mark.ranks
def test_two_ranks_try_what_one_does(folder: Path):
    (folder / "grid.yaml").write_text(yaml.safe_dump({"loss.alpha": [0.25, 1.0]}))
    for ranks in (1, 2):
        run_on_ranks(folder, ranks, sweep_on_rank, words(folder, f"on-{ranks}", 2, "grid.yaml"))
    one, two = (trials_of(folder / f"on-{ranks}") for ranks in (1, 2))
    assert [trial["values"] for trial in one] == [trial["values"] for trial in two]
    assert [trial["value"] for trial in one] == pytest.approx([trial["value"] for trial in two])


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
    write_dataset(folder / "more", random_sessions(91, TRACKS), TRACKS)
    refused(run(*words(folder, "out", 2, data=str(folder / "more"))), "was swept with another data")


def test_a_store_that_is_none_is_refused(run, folder: Path):
    (folder / "out").mkdir()
    for content in ("not a study\nat all\n", "{}\n{}\n", "[]\n[]\n"):
        (folder / "out" / "study.jsonl").write_text(content)
        refused(run(*words(folder, "out", 2)), "study.jsonl is not a study that sweep wrote: choose another --output")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("loss.alfa: [1.0]", "there is no field 'loss.alfa'"),
        ("loss.alpha: [one]", "'loss.alpha' must be of type float"),
        ("loss.temperature: [1.0, 0.0]", "--loss.temperature 0.0 must be positive"),
        ("loss.alpha: 1.0", "'loss.alpha' must be a list of choices"),
        ("loss.alpha: {low: 2, high: 1}", "with low below high"),
        ("loss.alpha: {low: 0, high: 1, log: true}", "log above zero"),
        ("loss.alpha: {low: 0, high: .inf}", "must be a finite number"),
        ("loss.alpha: {low: 0, high: 1, log: maybe}", "with low below high"),
        ("encoder.blocks: {low: 1, high: 3, step: 0.5}", "a whole step where the field is whole"),
        ("encoder.blocks: {low: 1, high: 2.5}", "'encoder.blocks' must be of type int"),
        ("1: [1.0]", "there is no field '1'"),
        ("loss: [1.0]", "'loss' must be a section"),
        ("loss.alpha: [[1.0]]", "'loss.alpha' must be of type float"),
        ("data.path: [a, b]", "'data.path' cannot be searched"),
        ("evaluate.candidates: [10, 100]", "'evaluate.candidates' cannot be searched"),
        ("selection.metric: [mrr, hr@10]", "'selection.metric' cannot be searched"),
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
    rates = read_space("paper", config)["optimizer.learning_rate"]
    assert rates == CategoricalDistribution((0.0001, 0.0005, 0.001, 0.005))
    assert read_space("extended", config).keys() > read_space("paper", config).keys()
    (tmp_path / "space.yaml").write_text(
        "{encoder.blocks: {low: 1, high: 3}, loss.beta: {low: 0, high: 1}, loss.alpha: [1e-3, 1, 1.0]}"
    )
    space = read_space(str(tmp_path / "space.yaml"), config)
    assert space == {
        "encoder.blocks": IntDistribution(1, 3),
        "loss.beta": FloatDistribution(0.0, 1.0),  # the field's type decides, not how its bounds are written
        "loss.alpha": CategoricalDistribution((0.001, 1.0)),
    }
