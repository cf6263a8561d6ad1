"""Runs that read profiles: on any number of ranks, stopped, measured on other data, and what they find."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize
from skipwise.training.build import HeldOut, reading_inputs
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import evaluate_run
from skipwise.training.evaluation.records import read_target_ranks
from skipwise.training.follow.follow import follow
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from tests.conftest import random_sessions, write_dataset
from tests.ranks import run_on_ranks
from tests.support.profiles import add_profiles, random_profiles
from tests.training.checkpoint.test_resume import SESSIONS, TRACKS, config_of, story_of, train_stopped_at
from tests.training.test_equality import TRACKS as TRACKS_OF_SMALL
from tests.training.test_equality import assert_equal, dense_steps, small, train_steps
from tests.training.test_planted import config_of as planted_config
from tests.training.test_planted import trained


@pytest.mark.ranks
def test_4_ranks_take_the_steps_of_a_dense_table(make_dataset, tmp_path: Path):
    path = make_dataset(random_sessions(115, TRACKS_OF_SMALL), TRACKS_OF_SMALL)
    add_profiles(path, random_profiles(115, TRACKS_OF_SMALL, 9))
    config = small("unidir-skip-context", path)
    config = replace(
        config,
        data=replace(config.data, profile=6, inputs=("skips",)),
        encoder=replace(config.encoder, positions="relative"),
        loss=replace(config.loss, keep=0.5, keep_dim=8, keep_dropout=0.0),
    )
    expected = dense_steps(config)
    assert abs(expected["losses"][0][0] - expected["losses"][-1][0]) > 1e-3, "nothing was learned"
    for name in ("recency", "repeats"):
        assert expected["encoder"][f"encoder.profile.{name}"].abs().max() > 1e-3, "nothing was learned of profiles"
    assert_equal(run_on_ranks(tmp_path, 4, train_steps, config), expected)


def dataset(folder: Path, seed: int = 0, most: int = 9) -> Path:
    data = write_dataset(folder, random_sessions(SESSIONS, TRACKS, seed=1), TRACKS)
    add_profiles(data, random_profiles(SESSIONS, TRACKS, most, seed))
    return data


def reading(data: Path, run: Path, profile: int = 6, **options) -> RunConfig:
    config = config_of(data, run, **options)
    return replace(config, data=replace(config.data, profile=profile))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path):
    data = dataset(tmp_path / "data")
    with process_group():
        train(reading(data, tmp_path / "straight", epochs=2, dropout=0.1), "best")
        train_stopped_at(reading(data, tmp_path / "stopped", epochs=2, dropout=0.1), [3, 4])
        (lines, metrics, tensors), (others, other_metrics, other_tensors) = (
            story_of(tmp_path / name) for name in ("straight", "stopped")
        )
        assert (lines, metrics) == (others, other_metrics)
        assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())
        # Other profiles of the same sessions are other data; and data without them are refused.
        other = dataset(tmp_path / "other", seed=1)
        with pytest.raises(UserError, match="run on other data than"):
            train(reading(other, tmp_path / "straight", epochs=2, dropout=0.1), "best")
        run = RunDirectory.open(str(tmp_path / "straight"))
        bare = write_dataset(tmp_path / "bare", random_sessions(50, TRACKS, seed=2), TRACKS)
        with pytest.raises(
            UserError, match="bare has no profiles of listeners: prepare the log again with --profile 6"
        ):
            evaluate_run(run, ("full",), str(bare))
        add_profiles(bare, random_profiles(50, TRACKS, 6))
        assert evaluate_run(run, ("full",), str(bare), "last").metrics["full"]["test"]["targets"] == 50
        with pytest.raises(UserError, match="was trained with --data.profile 6, not 3: start from it with the same"):
            train(replace(reading(data, tmp_path / "next", 3), init_from=str(run.path)), "best")
        without = replace(reading(data, tmp_path / "next", 0), init_from=str(run.path))
        with pytest.raises(UserError, match="with --data.profile 6, not none: start from it with the same, or leave"):
            train(without, "best")
        with pytest.raises(UserError, match="with --data.profile 6, not none: follow from another run"):
            follow(replace(without, follow=str(tmp_path)), "best")
        config = run.path / "config.yaml"
        config.write_text(config.read_text().replace(str(data), str(other)))
        with pytest.raises(UserError, match="the context columns or profiles of .*other are not those"):
            evaluate_run(RunDirectory.open(str(run.path)), ("full",))


def test_runs_that_follow_read_none(tmp_path: Path):
    with pytest.raises(ValueError, match="--follow reads no --data.profile"):
        replace(reading(tmp_path, tmp_path / "run"), follow="parts", init_from="run")


@pytest.fixture(scope="module")
def tastes(tmp_path_factory) -> dict[str, str]:
    """Sessions of 120 listeners, each with 20 favourites of 200 tracks; and the same with other listeners by chance."""
    folder = tmp_path_factory.mktemp("tastes")
    synthesize(SynthesizeConfig(folder / "log.parquet", 1_200, 200, 0, clusters=4, zipf=0, planted="tastes"))
    log = pq.read_table(folder / "log.parquet")
    session = np.unique(log["session_id"].to_numpy(), return_inverse=True)[1]
    number = np.random.default_rng(0).permutation(1_200)[session]
    time = 86_400 * (1 + number % 10) + 200 * (log["session_position"].to_numpy() - 1)
    users = pa.array([f"u{user}" for user in number // 10])
    shuffled = log.set_column(log.column_names.index("user"), "user", users)
    pq.write_table(
        shuffled.set_column(log.column_names.index("time"), "time", pa.array(time)), folder / "shuffled.parquet"
    )
    names = {"session": "user", "track": "track_id_clean", "order": "time", "gap": "30m"}
    for name in ("log", "shuffled"):
        options = {"split": "session", "profile": 50, **names}
        prepare(PrepareConfig(input=(folder / f"{name}.parquet",), output=folder / name, **options))
    return {name: str(folder / name) for name in ("log", "shuffled")}


def first_tracks_found(folder: Path, path: str, profile: int, epochs: int = 6, seed: int = 0) -> float:
    """HR@10 of the second to fourth track of test sessions."""
    config = planted_config("best-skip-blind", path, {"profile": profile}, {})
    config = replace(config, table=replace(config.table, dim=32), train=replace(config.train, seed=seed))
    store = reading_inputs(config, SessionStore(path))
    with process_group():
        held_out = HeldOut.of(config.evaluate, store, "test")
        trained(config, store, epochs).measure(("served",), "test", held_out, 0, folder)
    ranks = read_target_ranks(folder, "served", "test")
    return float(ranks.values("hr@10")[ranks.position <= 3].mean())


def test_favourites_of_earlier_sessions_are_found_by_the_profile_alone(tastes, tmp_path: Path):
    found = first_tracks_found(tmp_path / "with", tastes["log"], 50)
    without = first_tracks_found(tmp_path / "without", tastes["log"], 0)
    shuffled = first_tracks_found(tmp_path / "shuffled", tastes["shuffled"], 50)
    assert found > 3 * without and shuffled < 1.5 * without, (found, without, shuffled)
