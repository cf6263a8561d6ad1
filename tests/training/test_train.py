"""Whole runs: the run directory, early stopping on validation, a restart from the file, any number of ranks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.config import LossConfig
from skipwise.training.build import HeldOut, build_model, table_weight, train_loader
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.config import PROTOCOLS, SPLITS, RunConfig, SelectionConfig
from skipwise.training.evaluation.evaluator import Evaluator, measurable
from skipwise.training.evaluation.records import has_target_ranks, read_target_ranks
from skipwise.training.evaluation.skip_measures import FORESEEN, ORDERED
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks

TRACKS = 150
IN_BATCH = LossConfig(context="none", alpha=0.0, beta=1.0, in_batch=True)


def config_of(data: Path, run: Path, recipe: str = "best-skip-blind", **train_options) -> RunConfig:
    config = RECIPES[recipe]()
    return replace(
        config,
        run_dir=str(run),
        data=replace(config.data, path=str(data), batch_size=32, lanes=4, negatives=40, workers=0),
        table=replace(config.table, dim=16),
        encoder=replace(config.encoder, heads=2, hidden=16, dropout=0.0, track_dropout=0.0),
        train=replace(
            config.train, **({"epochs": 3, "refit": False, "matmul": "highest", "log_every": 2} | train_options)
        ),
        evaluate=replace(config.evaluate, candidates=100),
    )


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def flat(metrics: dict) -> dict[str, float]:
    """One level of names; sums over sessions differ in their last bit with the order of ranks, hence approx."""
    return {f"{outer} {name}": value for outer, values in metrics.items() for name, value in values.items()}


@pytest.fixture
def data(make_dataset) -> Path:
    return make_dataset(random_sessions(160, TRACKS), TRACKS)


def test_a_run_leaves_what_the_readme_promises(data: Path, tmp_path: Path):
    config = config_of(data, tmp_path / "run")
    with process_group():
        run = train(replace(config, loss=replace(config.loss, keep=0.5)), "best")
    metrics = metrics_of(run.path)
    skips = {*FORESEEN, *ORDERED, "pairs"}
    figures = {"hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr", "percentile_rank", "targets"}
    for protocol in PROTOCOLS:
        for split in SPLITS:
            values = metrics[protocol][split]
            kinds = {f"{kind}_{figure}" for kind in ("skipped", "kept", "new", "repeated") for figure in figures}
            assert set(values) == {"sessions"} | figures | kinds | skips
            assert 0 <= values["hr@1"] <= values["hr@5"] <= values["hr@10"] <= values["hr@20"] <= 1
    assert metrics["paper"]["test"]["sessions"] == metrics["paper"]["test"]["targets"] == 160
    facts = {"sessions_per_s", "epochs", "best_epoch", "seconds", "selected_by", "starts_from_other_data"}
    assert set(metrics["train"]) == facts
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "validation"] == [1, 2, 3]
    assert all({"loss", "nll", "nce", "sessions_per_s"} <= set(line) for line in lines if line["kind"] == "train")
    board = EventAccumulator(str(run.path / "tensorboard")).Reload()
    for name in ("hr@10", "next_skip_auc", "next_skip_accuracy", "next_skip_ece"):
        shown = [event.value for event in board.Scalars(f"validation/{name}")]
        assert shown == pytest.approx([line[name] for line in lines if line["kind"] == "validation"])
    best = max(line["ndcg@10"] for line in lines if line["kind"] == "validation")
    chosen = run.config.selection
    assert metrics[chosen.protocol]["validation"]["ndcg@10"] == best, "the tested weights are not the best ones"


@pytest.mark.parametrize(
    "selection",
    [
        SelectionConfig("hr@1", "paper"),
        SelectionConfig("hr@20", "served", "kept"),
        SelectionConfig("mrr", "full", "kept", sessions=50),
    ],
)
def test_the_best_epoch_is_the_one_that_the_selection_asks_for(selection, data: Path, tmp_path: Path):
    config = replace(config_of(data, tmp_path / "run", epochs=6), selection=selection)
    with process_group():
        run = train(config, "best")
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    values = [selection.value(line) for line in lines if line["kind"] == "validation"]
    assert all(line["sessions"] == min(selection.sessions, 160) for line in lines if line["kind"] == "validation")
    assert metrics_of(run.path)["train"]["best_epoch"] == 1 + int(np.argmax(values))
    assert metrics_of(run.path)["train"]["selected_by"] == selection.name
    if selection.sessions != 50:
        assert selection.value(metrics_of(run.path)[selection.protocol]["validation"]) == max(values)


def test_no_kept_target_to_select_by_is_refused(make_dataset, tmp_path: Path):
    skipped = [(rows, [1] * len(rows)) for rows, _ in random_sessions(40, TRACKS)]
    config = config_of(make_dataset(skipped, TRACKS), tmp_path / "run", epochs=1)
    config = replace(config, selection=SelectionConfig(targets="kept"))
    with process_group(), pytest.raises(UserError, match="no validation target was kept: choose --selection.targets"):
        train(config, "best")


@pytest.mark.parametrize("refit", [False, True])
def test_sessions_held_out_whole_are_not_trained_on(refit: bool, make_dataset, tmp_path: Path):
    """Tracks of the test's sessions alone keep their first rows; so do those of the validation, but for a refit.

    The refit has more steps an epoch, for it reads the validation's sessions too.
    """
    sessions = [([first + step for step in range(5)], [0] * 5) for first in range(0, 120, 5)]
    data = make_dataset(sessions, 120, split={"test": 10, "train": 10, "validation": 4})
    config = config_of(data, tmp_path / "run", epochs=2, refit=refit)
    config = replace(config, data=replace(config.data, negatives=0, batch_size=4), loss=IN_BATCH)
    with process_group():
        run = train(config, "best")
        model = build_model(run.config, 120)
        first = table_weight(model).local_shards()[0].tensor.clone()
        load_best(model, run.path)
        changed = (table_weight(model).local_shards()[0].tensor != first).any(dim=1)
    assert not changed[:50].any() and changed[50:100].all() and bool(changed[100:].all()) == refit
    assert metrics_of(run.path)["served"]["test"]["targets"] == 40
    assert metrics_of(run.path)["served"]["validation"]["targets"] == 16
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    best = metrics_of(run.path)["train"]["best_epoch"]
    steps = {
        kind: max([line["step"] for line in lines if line["kind"] == kind], default=0) for kind in ("train", "refit")
    }
    assert steps == {"train": 2 * 3, "refit": best * 4 * refit}
    assert metrics_of(run.path)["train"]["epochs"] == 2


def test_records_tell_the_metrics_session_by_session(data: Path, tmp_path: Path):
    with process_group():
        run = train(config_of(data, tmp_path / "run"), "best")
    store = SessionStore(str(data))
    window = store.read(np.arange(len(store.group_sizes)))
    for protocol in PROTOCOLS:
        for split, held_out in HELD_OUT.items():
            ranks, values = read_target_ranks(run.path, protocol, split), metrics_of(run.path)[protocol][split]
            assert ((ranks.rank <= 10) & (ranks.rank > 0)).mean() == pytest.approx(values["hr@10"], abs=1e-12)
            after = 100 * (ranks.candidates + 1 - ranks.rank) / ranks.candidates * (ranks.rank > 0)
            skipped = np.isin(ranks.skips, (1, 2))
            assert after[skipped].mean() == pytest.approx(values["skipped_percentile_rank"], abs=1e-9)
            assert (skipped.sum(), (~skipped).sum()) == (values["skipped_targets"], values["kept_targets"])
            for session, position, target, skips, candidates in zip(
                ranks.session, ranks.position, ranks.target, ranks.skips, ranks.candidates, strict=True
            ):
                first, last = window.offsets[session : session + 2]
                assert (position, target, skips) == (
                    last - first - held_out,
                    window.tracks[last - held_out],
                    window.skips[last - held_out],
                )
                heard = set(window.tracks[first : last - held_out].tolist()) - {target}
                left = {"paper": 100, "full": store.num_tracks - 1, "served": store.num_tracks - 1 - len(heard)}
                assert candidates == left[protocol]


def test_refit_trains_afresh_on_all_but_the_last_track(data: Path, tmp_path: Path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("skipwise.training.active_run.logger.info", said.append)
    config = config_of(data, tmp_path / "refit", epochs=3, refit=True)
    with process_group():
        plain = train(config_of(data, tmp_path / "plain", epochs=3), "best")
        refit = train(config, "best")
        metrics = [metrics_of(run.path) for run in (plain, refit)]
        assert metrics[0]["paper"]["validation"] == metrics[1]["paper"]["validation"]
        assert metrics[0]["paper"]["test"] != metrics[1]["paper"]["test"]
        lines = [json.loads(line) for line in (refit.path / "metrics.jsonl").read_text().splitlines()]
        epochs = metrics[1]["train"]["best_epoch"]
        assert {line["epoch"] for line in lines if line["kind"] == "refit"} == set(range(1, epochs + 1))
        (announced,) = [sentence for sentence in said if sentence.startswith("refit: ")]
        assert f" {epochs} epochs " in announced and f"{5 * epochs} steps, about " in announced
        store = SessionStore(str(data))
        loader = train_loader(refit.config, store, held_out=1)
        again = Trainer(refit.config, build_model(refit.config, store.num_tracks), 3 * loader.steps)
        for epoch in range(1, epochs + 1):
            list(again.steps(loader.epoch(epoch)))
        again.detach()
        held_out = HeldOut.of(refit.config.evaluate, store, "test")
        test = Evaluator(refit.config, again.model).measure(("paper",), "test", held_out, 0)
        assert test["paper"] == metrics[1]["paper"]["test"]
        assert measurable(refit.config) == ("test",), "its validation targets are training data"


def test_watched_and_untested(data: Path, tmp_path: Path):
    """A sweep's view of a run: it may end it after any epoch, and sees no test target."""
    seen = []

    def watch(epoch: int, metrics: dict) -> bool:
        seen.append((epoch, metrics["ndcg@10"]))
        return epoch == 2

    with process_group():
        run = train(config_of(data, tmp_path / "run", epochs=5), "best", watch, test=False)
    metrics = metrics_of(run.path)
    assert [epoch for epoch, _ in seen] == [1, 2] and metrics["train"]["epochs"] == 2
    chosen = run.config.selection.protocol
    assert set(metrics) == {chosen, "train"} and set(metrics[chosen]) == {"validation"}
    assert metrics[chosen]["validation"]["ndcg@10"] == max(value for _, value in seen)
    assert not has_target_ranks(run.path, chosen, "test")


def train_and_read(config: RunConfig) -> dict:
    return metrics_of(train(config, "best").path)


@pytest.mark.ranks
def test_any_number_of_ranks_ends_with_the_same_metrics(data: Path, tmp_path: Path):
    results = []
    for ranks in (1, 2, 4):
        found = run_on_ranks(tmp_path, ranks, train_and_read, config_of(data, tmp_path / f"run-{ranks}"))
        results.append(flat({f"{name} {split}": found[0][name][split] for name in PROTOCOLS for split in SPLITS}))
    assert results[1] == pytest.approx(results[0], abs=1e-12)
    assert results[2] == pytest.approx(results[0], abs=1e-12)


def evaluate_saved(path: Path) -> dict:
    run = RunDirectory.open(str(path))
    store = run.open_store()
    model = build_model(run.config, store.num_tracks)
    load_best(model, run.path)
    held_out = HeldOut.of(run.config.evaluate, store, "test")
    return Evaluator(run.config, model).measure(PROTOCOLS, "test", held_out, 0)


@pytest.mark.ranks
def test_the_saved_best_gives_the_same_metrics_on_other_ranks(data: Path, tmp_path: Path):
    run_on_ranks(tmp_path, 2, train_and_read, config_of(data, tmp_path / "run"))
    expected = {name: metrics_of(tmp_path / "run")[name]["test"] for name in PROTOCOLS}
    for ranks in (1, 4):
        for found in run_on_ranks(tmp_path, ranks, evaluate_saved, tmp_path / "run"):
            assert flat(found) == pytest.approx(flat(expected), abs=1e-12)


def test_a_run_is_a_function_of_config_and_seed(data: Path, tmp_path: Path):
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with process_group():
            # How batches are fetched and how often is measured must not reach dropout's random stream.
            config = config_of(data, tmp_path / name, seed=seed)
            config = replace(config, selection=replace(config.selection, sessions=50 if name == "b" else 0))
            config = replace(config, data=replace(config.data, workers=1 if name == "b" else 0))
            train(replace(config, encoder=replace(config.encoder, dropout=0.3)), "best")
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        results.append([json.loads(line)["loss"] for line in lines if '"train"' in line])
    assert results[0] == results[1] != results[2]


def test_dropout_and_hidden_tracks_act_in_every_epoch(data: Path, tmp_path: Path):
    """On weights that do not move: each loss of each epoch is another one than without, in either case."""
    losses = []
    for number, options in enumerate(({}, {"dropout": 0.3}, {"track_dropout": 0.3})):
        config = config_of(data, tmp_path / str(number), log_every=1)
        config = replace(
            config,
            table=replace(config.table, learning_rate=1e-12, init_bound=0.5),
            optimizer=replace(config.optimizer, learning_rate=1e-12),
            encoder=replace(config.encoder, **options),
        )
        with process_group():
            train(config, "best")
        lines = (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()
        losses.append([line["loss"] for line in map(json.loads, lines) if line["kind"] == "train"])
    without, *others = np.array(losses)
    assert len(without) == 15
    for values in others:
        assert (np.abs(values - without) > 1e-5).all()


def test_early_stopping_counts_epochs_without_a_better_validation(data: Path, tmp_path: Path):
    config = config_of(data, tmp_path / "run", epochs=30, patience=2)
    # A rate this small changes no rank, so no epoch after the first is better.
    frozen = replace(
        config,
        table=replace(config.table, learning_rate=1e-12),
        optimizer=replace(config.optimizer, learning_rate=1e-12),
    )
    with process_group():
        train(frozen, "best")
    assert metrics_of(tmp_path / "run")["train"]["epochs"] == 3


def test_a_loss_that_is_not_finite_stops_with_a_sentence(data: Path, tmp_path: Path):
    config = config_of(data, tmp_path / "run", epochs=3)
    broken = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30, clip_norm=0.0))
    with process_group(), pytest.raises(UserError, match="the loss is not finite at epoch 1, step .*learning-rate"):
        train(broken, "best")
