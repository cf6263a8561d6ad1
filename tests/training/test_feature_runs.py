"""Runs that read features: resumed, measured, exported with cold tracks, started from another run; what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import skipwise
from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.components.train import read_command_line
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.studies.baselines.measuring import measure_baseline
from skipwise.studies.baselines.popularity import Popularity
from skipwise.training.active_run import ActiveRun
from skipwise.training.build import cold_tracks, reading_inputs, train_loader, training_data
from skipwise.training.checkpoint.checkpoints import best_checkpoint
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import evaluate_run
from skipwise.training.evaluation.records import read_target_ranks
from skipwise.training.follow.follow import follow
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.stop_signal import StopSignal
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.start import create_or_resume_run
from tests.conftest import random_sessions, write_dataset
from tests.support.features import KNOWN, add_features, random_rows
from tests.support.tables import initial_rows
from tests.training.checkpoint.test_resume import TRACKS, config_of, story_of, tensors_of, train_stopped_at

ROWS, VALUES, PROJECTION = (
    "model.table.embedding_bags.tracks.weight",
    "model.table.embedding_bags.track_values.weight",
    "model.content.projection.weight",
)


def reading(data: Path, run: Path, **options) -> RunConfig:
    share = options.pop("hold_out_tracks", 0.0)
    config = config_of(data, run, **options)
    return replace(config, data=replace(config.data, features=KNOWN, hold_out_tracks=share))


def dataset(folder: Path, seed: int = 0, played: int = TRACKS, **options) -> Path:
    data = write_dataset(folder, random_sessions(160, played, seed=seed), TRACKS, **options)
    return add_features(data, random_rows(TRACKS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run, its data, of whose tracks the last ten are not played, and its export."""
    folder = tmp_path_factory.mktemp("features")
    config = reading(dataset(folder / "data", played=TRACKS - 10), folder / "run", epochs=2)
    with process_group():
        train(config, "best")
        write_export(ExportConfig(str(folder / "run"), folder / "export"))
    return folder


def test_a_stopped_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path):
    with process_group():
        train_stopped_at(reading(folder / "data", tmp_path / "stopped", epochs=2), [3, 4])
    (lines, metrics, tensors), (others, other_metrics, other_tensors) = (
        story_of(path) for path in (folder / "run", tmp_path / "stopped")
    )
    assert (lines, metrics) == (others, other_metrics)
    assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
    assert {ROWS, VALUES, PROJECTION} <= tensors.keys()


def test_an_export_holds_sums_and_recommends_cold_tracks(folder: Path):
    """By hand from the checkpoint: the own row, the mean of each column's values, and the projected numbers."""
    saved = tensors_of(best_checkpoint(folder / "run"))
    features = SessionStore(str(folder / "data")).featuring(KNOWN).features
    content = features.of(np.arange(TRACKS))
    expected = saved[ROWS] + torch.from_numpy(content.numbers_UF) @ saved[PROJECTION].T
    for column, codes in enumerate(content.codes_CZ):
        for track, own in enumerate(np.split(codes, content.counts_UC[:, column].cumsum()[:-1])):
            if len(own):
                expected[track] += saved[VALUES][own].mean(dim=0)
    export = skipwise.load(folder / "export")
    rows = np.concatenate([np.stack(pq.read_table(part)["embedding"].to_numpy()) for part in parts_of(folder)])
    torch.testing.assert_close(torch.from_numpy(rows), expected, rtol=0, atol=1e-6)
    played = train_counts(SessionStore(str(folder / "data"))) > 0
    own = saved[ROWS].any(dim=1).numpy()
    assert not own[~played].any() and own[played].mean() > 0.9, "no own row of what is never played"
    assert len(export.recommend(["t_00001"], k=TRACKS - 1)) == TRACKS - 1


def parts_of(folder: Path) -> list[Path]:
    manifest = json.loads((folder / "export" / "manifest.json").read_text())
    return [folder / "export" / part["file"] for part in manifest["parts"]]


def test_a_run_is_measured_again_alike_and_on_other_sessions(folder: Path, tmp_path: Path):
    other = write_dataset(tmp_path / "other", random_sessions(50, TRACKS, seed=7), TRACKS)
    with process_group():
        run = RunDirectory.open(str(folder / "run"))
        trained = run.metrics()
        again = evaluate_run(run, ("served", "full")).metrics
        for protocol, splits in again.items():
            for split, values in splits.items():
                assert values == pytest.approx(trained[protocol][split], nan_ok=True)
        assert again["full"]["test"]["cold_targets"] == 0 and again["full"]["test"]["cold_hr@10"] is None
        found = evaluate_run(run, ("full",), str(other)).metrics["full"]["test"]
        assert found["targets"] > 0 and "cold_targets" not in found


def test_tracks_that_are_held_out(folder: Path, tmp_path: Path):
    """They are targets of the test and of nothing else; a baseline has not seen them either."""
    data = dataset(tmp_path / "data", split={"test": 60, "train": 70, "validation": 30})
    config = reading(data, tmp_path / "run", epochs=1, hold_out_tracks=0.2)
    with process_group():
        train(config, "best")
        store = SessionStore(str(data))
        cold = cold_tracks(config, store)
        sessions, held_out = training_data(store, hold_out_tracks=0.2)
        windows = [sessions.read(np.array([group])).tracks for group in range(len(sessions.group_sizes))]
        measure_baseline(Popularity, config, store, tmp_path / "popularity")
    whole = store.part("train").read(np.arange(len(store.part("train").group_sizes))).tracks
    left_out = np.setdiff1d(whole, np.concatenate(windows))
    assert 0.1 < len(left_out) / TRACKS < 0.3 and cold[left_out].all() and held_out == 0
    assert np.isin(whole, left_out).sum() == len(whole) - sum(map(len, windows))
    saved = tensors_of(best_checkpoint(tmp_path / "run"))
    assert not saved[ROWS][cold].any() and saved[ROWS][~cold].any(dim=1).float().mean() > 0.5
    ranks = read_target_ranks(tmp_path / "run", "full", "test")
    of_cold = cold[ranks.target]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["full"]["test"]
    assert metrics["cold_targets"] == of_cold.sum() > 20
    assert metrics["cold_hr@10"] == pytest.approx(ranks.values("hr@10")[of_cold].mean())
    popularity = json.loads((tmp_path / "popularity" / "metrics.json").read_text())["full"]["test"]
    assert popularity["cold_targets"] == metrics["cold_targets"] and popularity["cold_mrr"] < popularity["mrr"]


def test_what_is_refused(folder: Path, tmp_path: Path):
    data = shutil.copytree(folder / "data", tmp_path / "data")
    config = reading(data, tmp_path / "run")
    with process_group():
        with pytest.raises(
            UserError, match="--data.features mood: .*data has genre, tags, year, audio; name these, or"
        ):
            train(replace(config, data=replace(config.data, features=("mood",))), "best")
        plain = Manifest.read(data).model_copy(update={"features": []})
        plain.write(data)
        with pytest.raises(UserError, match="--data.features genre: .* has no features of tracks; prepare it again"):
            train(config, "best")
        moved = shutil.copytree(folder / "run", tmp_path / "without")
        text = (moved / "config.yaml").read_text()
        (moved / "config.yaml").write_text(text.replace(str(folder / "data"), str(data)))
        with pytest.raises(
            UserError, match="features of tracks of .*data are not those that .*: prepare that data set"
        ):
            evaluate_run(RunDirectory.open(str(moved)), ("full",))
        with pytest.raises(UserError, match="--data.features genre tags year audio, not none"):
            train(replace(config_of(data, tmp_path / "run"), init_from=str(folder / "run")), "best")
        after = replace(config_of(data, tmp_path / "run"), init_from=str(folder / "run"), follow=str(tmp_path))
        with pytest.raises(UserError, match="not none: follow from another run"):
            follow(after, "best")
        with pytest.raises(UserError, match="does not compare rows of which features of tracks are a part"):
            write_export(ExportConfig(str(folder / "run"), tmp_path / "delta", only_new_since=str(folder / "run")))
        # The same sessions with other features are other data.
        shutil.rmtree(data / "features")
        add_features(data, random_rows(TRACKS, seed=1))
        run = shutil.copytree(folder / "run", tmp_path / "moved")
        file = run / "config.yaml"
        file.write_text(file.read_text().replace(str(folder / "data"), str(data)))
        with pytest.raises(
            UserError, match="the features of tracks of .*data are not those that .*moved was trained on"
        ):
            evaluate_run(RunDirectory.open(str(run)), ("full",))
    for options, message in (
        ({"features": ("a", "a")}, "--data.features names a twice"),
        ({"id_dropout": 1.5}, r"--data.id-dropout 1.5 must lie in \[0, 1\]"),
        ({"hold_out_tracks": 1.0}, r"--data.hold-out-tracks 1.0 must lie in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config.data, **options)
    with pytest.raises(ValueError, match="holds out no tracks: name a run without these by --init-from, and leave"):
        replace(config, follow="parts", init_from=str(folder / "run"))
    with pytest.raises(UserError, match="--data.id-dropout 0.1 changes nothing here: it is read with --data.features"):
        read_command_line(["best", "--data.id-dropout", "0.1"])


def test_other_kinds_of_features_are_not_taken_over(folder: Path, tmp_path: Path):
    """Vectors of another width, or none, before anything is written; a run without features is not started from."""
    rows = [row | {"audio": [*row["audio"], 1.0] if row["audio"] else None} for row in random_rows(TRACKS)]
    wider = add_features(write_dataset(tmp_path / "wider", random_sessions(90, TRACKS), TRACKS), rows)
    config = replace(reading(wider, tmp_path / "after"), init_from=str(folder / "run"))
    with process_group():
        with pytest.raises(UserError, match="reads 4 numbers of each track's features, and .*wider has 5 in these"):
            train(config, "best")
        assert not (tmp_path / "after").exists()
        train(config_of(folder / "data", tmp_path / "plain", epochs=1), "best", test=False)
        config = replace(config, init_from=str(tmp_path / "plain"))
        with pytest.raises(
            UserError, match="trained without --data.features, not with genre .*: start from it without"
        ):
            train(config, "best")


def test_rows_of_values_are_taken_over_by_column_and_value(folder: Path, tmp_path: Path):
    """The later data have other tracks in training, so other values, and one more genre."""
    rows = random_rows(TRACKS)
    for row in rows[::5]:
        row["genre"] = "a new one"
    later = add_features(write_dataset(tmp_path / "later", random_sessions(160, 60, seed=3), TRACKS), rows)
    with process_group():
        config = replace(reading(later, tmp_path / "after", epochs=1), init_from=str(folder / "run"))
        store = reading_inputs(config, SessionStore(str(later)))
        with StopSignal(0) as stop_signal:
            run = create_or_resume_run(config, "best", store)
            tensors = ActiveRun(run, store, stop_signal, HangWatch(0)).trainer.tensors()
        found, projection = tensors[VALUES].local_shards()[0].tensor.clone(), tensors[PROJECTION].clone()
    saved = tensors_of(best_checkpoint(folder / "run"))
    before, after = (
        {(row["column"], row["value"]): row["row"] for row in pq.read_table(path / "track_values.parquet").to_pylist()}
        for path in (folder / "run", tmp_path / "after")
    )
    fresh = initial_rows(len(after), 16, config.table.init_bound, config.train.seed + (1 << 41), 16)
    assert ("genre", "a new one") in after and len(before.keys() & after.keys()) > 10
    for value, row in after.items():
        assert torch.equal(found[row], saved[VALUES][before[value]] if value in before else fresh[row]), value
    assert torch.equal(projection, saved[PROJECTION])


def test_a_pool_larger_than_what_training_plays_has_each_track_once(tmp_path):
    """A second copy of a session's own track would be a negative of its own target."""
    config = reading(dataset(tmp_path / "data", played=TRACKS // 2), tmp_path / "run")
    config = replace(config, data=replace(config.data, negatives=TRACKS, sampling="shared"))
    store = reading_inputs(config, SessionStore(config.data.path))
    with process_group():
        played = np.flatnonzero(train_counts(store))
        batch = train_loader(config, store).dataset[1, 0]
    assert sorted(batch.tracks["track"].values()[batch.negatives_P].tolist()) == played.tolist()
    assert batch.negatives == batch.drawn_from == len(played) < TRACKS
    for number, (own_T, (first, until)) in enumerate(zip(batch.items_BT, batch.window_B2.tolist(), strict=True)):
        left_out = batch.collides_X2[batch.collides_X2[:, 0] == number, 1].tolist()
        met = [int(batch.negatives_P[place]) for place in range(first, until) if place not in left_out]
        assert not {*met} & {*own_T.tolist()}
