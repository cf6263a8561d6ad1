"""Whole tables, for references."""

import torch
from torch import Tensor

from skipwise.models.table import Shard, initialize


def initial_rows(num_rows: int, dim: int, bound: float, seed: int) -> Tensor:
    """The table that `initialize` spreads over ranks: [num_rows, dim]."""
    table = torch.empty(num_rows, dim)
    initialize([Shard(0, 0, table)], dim, bound, seed)
    return table
