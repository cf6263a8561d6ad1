"""Every session once an epoch, the same global batch on any number of ranks, and a start at any step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.loader import StepDataset, StepLoader
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import View
from tests.conftest import random_sessions, write_dataset

TRACKS = 60


def dataset_of(path: Path, config: DataConfig, rank: int, ranks: int, seed: int = 0, limit: int = 0) -> StepDataset:
    builder = TrainBuilder(seed, View(12), 12, TRACKS, config.negatives, config.sampling, None)
    return StepDataset(SessionStore(str(path)), config, builder, rank, ranks, limit)


def config_of(lanes: int = 4, batch_size: int = 8, **options) -> DataConfig:
    return DataConfig(lanes=lanes, batch_size=batch_size, negatives=10, workers=0, shuffle_groups=3, **options)


def numbers_of(dataset: StepDataset, epoch: int) -> list[list[int]]:
    batches = [dataset[epoch, step] for step in range(dataset.steps)]
    return [[number for number in batch.session_B.tolist() if number >= 0] for batch in batches]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 90),
    group_size=st.integers(1, 40),
    parts=st.integers(1, 3),
    per_lane=st.integers(1, 5),
    lanes=st.sampled_from([1, 2, 4, 12]),
    epoch=st.integers(1, 5),
)
def test_every_session_once_an_epoch_and_the_same_batches_on_any_number_of_ranks(
    count, group_size, parts, per_lane, lanes, epoch, tmp_path_factory
):
    path = tmp_path_factory.mktemp("data") / "set"
    write_dataset(path, random_sessions(count, TRACKS), TRACKS, group_size, parts)
    config = config_of(lanes, lanes * per_lane)
    one = numbers_of(dataset_of(path, config, 0, 1), epoch)
    assert sorted(sum(one, [])) == list(range(count))
    for ranks in (2, 4):
        if lanes % ranks:
            continue
        shares = [numbers_of(dataset_of(path, config, rank, ranks), epoch) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1, "ranks disagree on the number of steps"
        assert [sum(step, []) for step in zip(*shares, strict=True)] == one


def test_order_follows_from_seed_and_epoch_alone(make_dataset):
    path = make_dataset(random_sessions(80, TRACKS), TRACKS)
    orders = {
        (seed, epoch): numbers_of(dataset_of(path, config_of(), 0, 1, seed), epoch)
        for seed in (0, 1)
        for epoch in (1, 2)
    }
    assert len({str(order) for order in orders.values()}) == 4
    assert numbers_of(dataset_of(path, config_of(), 0, 1, 1), 2) == orders[1, 2]


def test_sessions_of_different_row_groups_meet(make_dataset):
    path = make_dataset(random_sessions(240, TRACKS), TRACKS, group_size=10, parts=1)
    groups = {number // 10 for number in numbers_of(dataset_of(path, config_of(), 0, 1), 1)[0]}
    assert len(groups) > 3


def test_a_limit_takes_a_fixed_choice(make_dataset):
    path = make_dataset(random_sessions(90, TRACKS), TRACKS)
    chosen = sum(numbers_of(dataset_of(path, config_of(), 0, 1, limit=20), 0), [])
    assert len(set(chosen)) == 20
    shares = [sum(numbers_of(dataset_of(path, config_of(), rank, 2, limit=20), 0), []) for rank in range(2)]
    assert sorted(sum(shares, [])) == sorted(chosen)


def assert_same_batch(one: SessionBatch, other: SessionBatch) -> None:
    assert (one.epoch, one.step) == (other.epoch, other.step)
    assert torch.equal(one.tracks.values(), other.tracks.values())
    assert torch.equal(one.tracks.lengths(), other.tracks.lengths())
    names = "items_BT", "skipped_BT", "inputs_B", "masked_BT", "targets_BT", "negatives_P", "window_B2", "collides_X2"
    for name in names:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_starts_at_any_step_and_its_workers_change_nothing(workers: int, make_dataset):
    path = make_dataset(random_sessions(70, TRACKS), TRACKS)
    dataset = dataset_of(path, config_of(), 0, 1)
    loader = StepLoader(dataset_of(path, replace(config_of(), workers=workers), 0, 1))
    random_state = torch.get_rng_state()
    for epoch, first in ((1, 0), (2, 0), (2, 5)):
        batches = list(loader.epoch(epoch, first))
        assert len(batches) == loader.steps - first
        for step, batch in enumerate(batches, start=first):
            assert_same_batch(batch, dataset[epoch, step])
    assert torch.equal(torch.get_rng_state(), random_state), "the loader drew from dropout's random stream"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_row_group_is_named(workers: int, make_dataset):
    path = make_dataset([([1, 2, 3], [0, 0, 0])] * 20 + [([1, 2, 999], [0, 0, 0])], TRACKS, parts=1)
    loader = StepLoader(dataset_of(path, replace(config_of(), workers=workers), 0, 1))
    with pytest.raises(UserError, match=r"part-00000.parquet, row group 2: a track row lies outside 0..59"):
        list(loader.epoch(1))


def test_ranks_must_divide_the_lanes(make_dataset):
    path = make_dataset(random_sessions(10, TRACKS), TRACKS)
    with pytest.raises(UserError, match="3 ranks do not divide --data.lanes 4"):
        dataset_of(path, config_of(), 0, 3)


def test_memory_does_not_grow_with_the_data(make_dataset):
    """Decoded windows are kept for a rank's lanes, and no more."""
    path = make_dataset(random_sessions(400, TRACKS), TRACKS, group_size=5, parts=1)
    dataset = dataset_of(path, config_of(), 0, 1)
    for step in range(dataset.steps):
        dataset[1, step]
    assert len(dataset._order[1]._cache) <= 5


def test_rows_of_every_step_are_looked_up_once(make_dataset):
    path = make_dataset(random_sessions(40, TRACKS), TRACKS)
    batch = dataset_of(path, config_of(), 0, 1)[1, 0]
    rows = batch.tracks.values().numpy()
    assert np.array_equal(rows, np.unique(rows))
    assert batch.tracks.lengths().sum() == len(rows)
    assert batch.tracks.lengths()[-1] == 0, "the last bag must be empty: padding points there"
