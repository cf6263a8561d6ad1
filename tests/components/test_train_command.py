"""The command line of `train`: recipe, file and flags; and one sentence, exit code 2, for whatever is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from skipwise.common.errors import UserError
from skipwise.components.recipes import RECIPES
from skipwise.components.train import read_command_line
from tests.components.conftest import refused
from tests.conftest import random_sessions


def test_best_is_the_default_recipe():
    assert read_command_line([]) == ("best", RECIPES["best"]())
    assert read_command_line(["bidir"]) == ("bidir", RECIPES["bidir"]())


def test_the_papers_settings_are_in_its_six_recipes():
    papers = [name for name in RECIPES if name.startswith(("unidir", "bidir"))]
    assert papers == [
        "unidir",
        "unidir-skip-context",
        "unidir-skip-track",
        "bidir",
        "bidir-skip-context",
        "bidir-skip-track",
    ]
    for name in papers:
        config = RECIPES[name]()
        encoder = config.encoder
        assert (encoder.blocks, encoder.heads, encoder.hidden, config.table.dim) == (2, 8, 128, 128)
        assert (encoder.max_length, encoder.mask_probability, config.table.init_bound) == (20, 0.2, 0.02)
        assert (config.data.negatives, config.data.sampling) == (1000, "per-session")
        assert config.optimizer.learning_rate == 0.005
        assert encoder.direction == ("unidirectional" if name.startswith("unidir") else "bidirectional")
        if "skip" in name:
            assert (config.loss.alpha, config.loss.beta) == (0.5, 0.5)
            assert config.loss.context == ("output" if name.endswith("context") else "track")
        else:
            assert config.loss.context == "none"


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text("train: {epochs: 7, seed: 3}\ntable: {learning_rate: 1e-2}\n")
    name, config = read_command_line(["unidir", "--config", str(file), "--train.epochs", "9", "--data.batch-size=64"])
    assert (name, config.train.epochs, config.train.seed) == ("unidir", 9, 3)
    assert (config.table.learning_rate, config.data.batch_size) == (0.01, 64)
    assert config.loss.context == "none"


def test_a_runs_own_config_file_repeats_it(tmp_path: Path):
    name, config = read_command_line(["bidir-skip-track", "--loss.temperature", "0.5"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(asdict(config)))
    assert read_command_line([name, "--config", str(file)]) == (name, config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense: {a: 1}", "there is no field 'nonsense'"),
        ("train: {epochz: 3}", "there is no field 'train.epochz'"),
        ("train: {epochs: many}", "'train.epochs' must be of type int, not 'many'"),
        ("train: {epochs: 0}", "--train.epochs and --train.log-every must be at least 1"),
        ("train: 5", "'train' must be a section of fields"),
        ("table: {optimizer: lamb}", "'table.optimizer' must be one of rowwise_adagrad"),
        ("train: {epochs: true}", "'train.epochs' must be of type int, not True"),
        ("- a list", "is not a YAML mapping"),
        ("a: [unclosed", "is not YAML"),
    ],
)
def test_a_wrong_config_file_is_named_with_its_field(text: str, message: str, tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_command_line(["--config", str(file)])
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_words_that_cannot_be_read_are_refused(run, make_dataset, tmp_path: Path):
    data = str(make_dataset(random_sessions(30, 1200), 1200))
    run_dir = tmp_path / "run"
    common = ("--data.path", data, "--run-dir", str(run_dir))
    refused(run("train", "best-of-all", *common), "there is no recipe 'best-of-all'", "unidir-skip-track")
    refused(run("trane"), "there is no command 'trane'")
    refused(run("train", "--train.epoch", "3", *common), "--train.epoch")
    refused(run("train", "--table.optimizer", "adam", *common), "adam needs a GPU", "rowwise_adagrad")
    refused(run("train", "unidir", "--data.negatives", "0", *common), "--data.negatives 0", "--loss.in-batch")
    refused(run("train", "--data.batch-size", "30", *common), "must be a multiple of --data.lanes")
    refused(run("train", "--encoder.heads", "7", *common), "must be a multiple of --encoder.heads 7")
    assert not run_dir.exists(), "something was written before the refusal"


def test_directories_of_another_kind_or_version_are_refused(run, make_dataset, tmp_path: Path):
    data = make_dataset(random_sessions(30, 1200), 1200)
    run_dir = tmp_path / "run"
    common = ("--run-dir", str(run_dir))
    refused(run("train", "--data.path", str(tmp_path / "no"), *common), "no/manifest.json cannot be read")
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    refused(run("train", "--data.path", str(data), *common), "schema_version 99", "prepare the dataset again")
    refused(run("evaluate", "--run", str(tmp_path / "no")), "no/run.json cannot be read", "a run directory that train")
    run_dir.mkdir()
    (run_dir / "run.json").write_text(json.dumps({"schema_version": 99}))
    refused(run("evaluate", "--run", str(run_dir)), "schema_version 99", "train again")
    refused(run("evaluate", "--run", str(run_dir), "--protocol", "best"), "protocol")
    (data / "manifest.json").write_text(json.dumps(manifest))
    refused(run("train", "--data.path", str(data), *common), "run.json has schema_version 99", "train again")


def test_train_evaluate_and_show_in_a_row(run, make_dataset, tmp_path: Path):
    data, run_dir = str(make_dataset(random_sessions(60, 300), 300)), str(tmp_path / "run")
    small = ("--table.dim", "16", "--encoder.heads", "2", "--train.epochs", "1", "--data.negatives", "100")
    small += ("--evaluate.candidates", "100", "--data.workers", "0")
    trained = run("train", "--data.path", data, "--run-dir", run_dir, *small)
    assert trained.code == 0, trained.said
    metrics = json.loads(Path(run_dir, "metrics.json").read_text())
    row = f"full test {metrics['full']['test']['hr@1']:.4f}"
    assert row in trained.said
    assert row in run("show", "--run", run_dir).said
    assert row in run("evaluate", "--run", run_dir, "--protocol", "full").said
    assert json.loads(Path(run_dir, "metrics.json").read_text()) == metrics
    # What a GPU trained with Adam can be measured on a CPU.
    config = Path(run_dir, "config.yaml")
    config.write_text(config.read_text().replace("optimizer: rowwise_adagrad", "optimizer: adam"))
    assert row in run("evaluate", "--run", run_dir, "--protocol", "full").said


def test_a_later_log_is_prepared_for_a_run_and_measured(run, make_dataset, tmp_path: Path):
    data, run_dir, log = str(make_dataset(random_sessions(60, 300), 300)), str(tmp_path / "run"), tmp_path / "log.csv"
    small = ("--table.dim", "16", "--encoder.heads", "2", "--train.epochs", "1", "--data.negatives", "100")
    assert run("train", "--data.path", data, "--run-dir", run_dir, "--data.workers", "0", *small).code == 0
    rows = [f"s,{place},{track}" for place, track in enumerate(("t_00007", "later", "t_00009", "t_00011"))]
    log.write_text("\n".join(["session_id,session_position,track_id_clean", *rows, ""]))
    words = ("prepare", "--input", str(log), "--output", str(tmp_path / "later"))
    assert run(*words).code == 0
    evaluate = ("evaluate", "--run", run_dir, "--data", str(tmp_path / "later"))
    refused(run(*evaluate), "another vocabulary", f"--vocabulary {run_dir}")
    prepared = run(*words, "--overwrite", "--vocabulary", run_dir)
    assert "1 sessions, 3 plays, 300 tracks; dropped 1 rows track not in the vocabulary" in prepared.said
    before = Path(run_dir, "metrics.json").read_text()
    for positions in ("all", "last"):
        measured = run(*evaluate, "--positions", positions)
        assert measured.code == 0 and "served test" in measured.said, measured.said
    assert Path(run_dir, "metrics.json").read_text() == before
    refused(run("evaluate", "--run", run_dir, "--positions", "last"), "--positions last applies to sessions that")
