"""What `lookup` times: the ids of a step, and one step of each module that looks them up.

Shape legend: L ids of this rank's step, U distinct ones of them, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.benchmarks.harness.zipf import Zipf
from skipwise.common.distributed import device, rank, world_size
from skipwise.datapipes.batch import FEATURE
from skipwise.models.config import TableConfig
from skipwise.models.table import TABLE, make_plan, make_sharder, make_table

ID_SETS = 8
"""Sets of ids that the steps go through in turn."""

Kind = Literal["repeated", "distinct"]
"""Whether a module is given every id of a step, or each id once."""


@dataclass(frozen=True)
class Ids:
    """One step's ids, and the same without repetition as the data pipe hands them over."""

    ids_L: Tensor
    distinct_U: Tensor
    """Ascending."""
    place_L: Tensor
    """Where each id stands in `distinct_U`."""

    def asked(self, kind: Kind) -> Tensor:
        """The ids to look up."""
        return self.ids_L if kind == "repeated" else self.distinct_U

    def rows(self, kind: Kind, rows: Tensor) -> Tensor:
        """[L, D] from the rows looked up, which may have empty bags' rows after them."""
        return rows[: len(self.ids_L)] if kind == "repeated" else nn.functional.embedding(self.place_L, rows)


def draw_ids(tracks: int, lookups: int, seed: int) -> list[Ids]:
    """This rank's ids: popularity falls as Zipf's law with exponent 1, popular rows lie anywhere in the table."""
    zipf = Zipf(tracks, np.random.default_rng(seed))
    random = np.random.default_rng([seed, 1 + rank()])
    sets = []
    for _ in range(ID_SETS):
        ids_L = torch.from_numpy(zipf.draw(lookups, random)).to(device())
        sets.append(Ids(ids_L, *torch.unique(ids_L, return_inverse=True)))
    return sets


Lookup = Callable[[Ids, Kind], Tensor]
"""One step: looks up, runs backward with a gradient of ones, updates the table; returns the rows [L, D] it found."""


def plain_lookup(tracks: int, dim: int) -> Lookup:
    """`nn.Embedding(sparse=True)` under SparseAdam: the whole table on every rank, and nothing is exchanged."""
    table = nn.Embedding(tracks, dim, sparse=True, device=device())
    nn.init.zeros_(table.weight)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.05)

    def step(ids: Ids, kind: Kind) -> Tensor:
        rows_LD = ids.rows(kind, table(ids.asked(kind)))
        optimizer.zero_grad()
        rows_LD.backward(torch.ones_like(rows_LD))
        optimizer.step()
        return rows_LD.detach()

    return step


def sharded_lookup(tracks: int, dim: int, capacity: int, module: str, sharding: str) -> Lookup:
    """A collection sharded as the project's table is, with FBGEMM's row-wise Adagrad in its backward.

    `capacity`: the most ids of a step; a bag collection is given bags for as many, and one more.
    """
    table = TableConfig(dim=dim, sharding=sharding)
    bags = make_table(table, tracks, FEATURE)
    # A plan names tables, not modules: one does for both collections.
    plan = make_plan(table, bags, "", world_size(), device().type)
    collection, sharder = bags, make_sharder(table)
    if module == "EmbeddingCollection":
        one = EmbeddingConfig(
            name=TABLE,
            embedding_dim=dim,
            num_embeddings=tracks,
            feature_names=[FEATURE],
            init_fn=nn.init.zeros_,
        )
        collection = EmbeddingCollection(device=torch.device("meta"), tables=[one])
        sharder = EmbeddingCollectionSharder(fused_params=sharder.fused_params)
    model = DistributedModelParallel(collection, device=device(), plan=plan, sharders=[sharder])

    def step(ids: Ids, kind: Kind) -> Tensor:
        asked = ids.asked(kind)
        found = model(_features(asked, capacity + 1 if module == "EmbeddingBagCollection" else len(asked)))
        found_UD = found[FEATURE].values() if module == "EmbeddingCollection" else found.values()
        rows_LD = ids.rows(kind, found_UD)
        rows_LD.backward(torch.ones_like(rows_LD))
        return rows_LD.detach()

    return step


def _features(asked_U: Tensor, bags: int) -> KeyedJaggedTensor:
    """Bags of one id, then empty ones: row-wise bags on gloo need the same number on every rank."""
    lengths = (torch.arange(bags, device=asked_U.device) < len(asked_U)).to(torch.int64)
    return KeyedJaggedTensor(keys=[FEATURE], values=asked_U, lengths=lengths)
