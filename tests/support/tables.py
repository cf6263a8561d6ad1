"""Whole tables, for references."""

import torch
from torch import Tensor

from skipwise.models.table import Shard, initialize


def initial_rows(num_rows: int, dim: int, bound: float, seed: int, keep_dim: int = 0) -> Tensor:
    """The table that `initialize` spreads over ranks: [num_rows, dim + keep_dim]."""
    table = torch.empty(num_rows, dim + keep_dim)
    initialize([Shard(0, 0, table)], dim, bound, seed, keep_dim)
    return table
