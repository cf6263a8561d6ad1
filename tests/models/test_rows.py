"""Each rank's block of whole rows, under every sharding, against the table that was written into the shards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import rank, world_size
from skipwise.models.config import EncoderConfig, TableConfig, row_block
from skipwise.models.rows import own_rows
from skipwise.models.table import local_shards
from skipwise.training.build import build_model, table_weight
from skipwise.training.config import RunConfig
from tests.ranks import run_on_ranks

DIM = 12


def blocks_of(sharding: str) -> list[tuple[bool, bool]]:
    """For tables of several sizes, whether the block is that of the whole table, and whether it is a shard itself."""
    found = []
    for num_rows in (10, 12, 2):
        config = replace(
            RunConfig(), table=TableConfig(dim=DIM, sharding=sharding), encoder=EncoderConfig(heads=2, hidden=8)
        )
        weight = table_weight(build_model(config, num_rows))
        whole = torch.arange(num_rows * DIM, dtype=torch.float).view(num_rows, DIM)
        for shard in local_shards(weight):
            rows, columns = shard.tensor.shape
            shard.tensor.copy_(whole[shard.row : shard.row + rows, shard.column : shard.column + columns])
        first, block = own_rows(weight, rank(), world_size())
        start, end = row_block(num_rows, rank(), world_size())
        same = first == start and torch.equal(block, whole[start:end])
        found.append((same, any(block.data_ptr() == shard.tensor.data_ptr() for shard in local_shards(weight))))
    return found


@pytest.mark.ranks
@pytest.mark.parametrize("sharding", ["row_wise", "column_wise", "table_wise"])
def test_own_rows_on_three_ranks(sharding: str, tmp_path: Path):
    """Two rows leave the last rank an empty block; row-wise shards are not copied."""
    for number, found in enumerate(run_on_ranks(tmp_path, 3, blocks_of, sharding)):
        assert all(same for same, _ in found)
        if sharding == "row_wise" and number == 0:
            assert all(shared for _, shared in found)


def test_a_table_that_is_not_sharded():
    whole = torch.randn(10, DIM)
    ((row, column, tensor),) = (vars(shard).values() for shard in local_shards(whole))
    assert (row, column) == (0, 0) and tensor is whole
    for number in range(3):
        first, block = own_rows(whole, number, 3)
        assert first == 4 * number and torch.equal(block, whole[4 * number : 4 * number + 4])
