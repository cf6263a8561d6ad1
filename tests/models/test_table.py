"""The table starts the same under any sharding, and refuses what a device lacks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.models.config import TableConfig, row_block
from skipwise.models.table import Shard, initialize
from tests.support.tables import initial_rows

ROWS, DIM = 9000, 8


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(0, ROWS - 1),
    length=st.integers(1, ROWS),
    column=st.integers(0, DIM - 1),
    width=st.integers(1, DIM),
)
def test_any_shard_starts_with_its_part_of_the_table(first: int, length: int, column: int, width: int):
    whole = initial_rows(ROWS, DIM, 0.02, seed=5)
    expected = whole[first : first + length, column : column + width]
    shard = Shard(first, column, torch.full(expected.shape, torch.nan))
    initialize([shard], DIM, 0.02, seed=5)
    assert torch.equal(shard.tensor, expected)


def test_rows_are_truncated_normal_and_follow_the_seed():
    rows = initial_rows(ROWS, DIM, 0.02, seed=0)
    assert rows.abs().max() <= 0.02
    assert rows.std().item() == pytest.approx(0.02 * 0.5396, rel=0.01)  # a standard normal cut at one deviation
    assert not torch.equal(rows[:4096], rows[4096:8192]), "blocks must not repeat"
    assert not torch.equal(rows, initial_rows(ROWS, DIM, 0.02, seed=1))


@given(rows=st.integers(0, 200), ranks=st.integers(1, 20))
def test_blocks_cover_every_row_once(rows: int, ranks: int):
    covered = [row for rank in range(ranks) for row in range(*row_block(rows, rank, ranks))]
    assert covered == list(range(rows))


@pytest.mark.parametrize("optimizer", ["adam", "partial_rowwise_adam"])
def test_adam_is_refused_on_cpu(optimizer: str):
    with pytest.raises(ValueError, match=f"--table.optimizer {optimizer} needs a GPU: choose rowwise_adagrad"):
        TableConfig(optimizer=optimizer).check_device("cpu")
    TableConfig(optimizer=optimizer).check_device("cuda")


@pytest.mark.parametrize(
    "options", [{"dim": 6}, {"dim": 0}, {"learning_rate": 0.0}, {"eps": -1.0}, {"init_bound": 0.0}]
)
def test_values_that_cannot_work_are_refused(options: dict):
    with pytest.raises(ValueError, match="--table.(dim|learning-rate|eps|init-bound)"):
        TableConfig(**options)


@pytest.mark.parametrize(
    ("sharding", "holders"),
    [("row_wise", [1, 2, 3, 4, 7]), ("table_wise", [1, 1, 1, 1, 1]), ("column_wise", [1, 2, 3, 3, 6])],
)
def test_ranks_that_hold_a_part(sharding: str, holders: list[int]):
    """24 columns are cut into blocks of a multiple of 4: of 24, 12, 8 or 4, never into 4 of 6."""
    config = TableConfig(dim=24, sharding=sharding)
    assert [math.prod(config.blocks(ranks)) for ranks in (1, 2, 3, 4, 7)] == holders


def test_a_grid_needs_nodes_that_divide_the_columns():
    config = TableConfig(dim=24, sharding="grid")
    assert [config.blocks(8, nodes) for nodes in (1, 2)] == [(8, 1), (4, 2)]
    with pytest.raises(ValueError, match="grid splits rows of 24 numbers over 4 nodes into blocks of a multiple of 4"):
        config.blocks(8, 4)
