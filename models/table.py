"""The track table: a sharded `EmbeddingBagCollection` used as a row lookup, its optimizer fused into backward."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs_registry
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.sharding_plan import column_wise, construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan, ShardingType
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from skipwise.datapipes.batch import FEATURE, SIGNAL_FEATURE, value_feature
from skipwise.models.config import TableConfig, row_block
from skipwise.models.grid_plan import grid

TABLE, SIGNAL_TABLE, VALUE_TABLE = "tracks", "signals", "track_values"
_INIT_BLOCK = 4096
_FUSED = EmbeddingComputeKernel.FUSED.value  # left to itself, TorchRec plans an unfused kernel on CPU

_OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
    "adam": EmbOptimType.ADAM,
    "partial_rowwise_adam": EmbOptimType.PARTIAL_ROWWISE_ADAM,
}
_PLANNED = [kind.value for kind in (ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE, ShardingType.ROW_WISE)]


def make_table(
    num_rows: int,
    row_dim: int,
    num_signals: int = 0,
    dim: int = 0,
    num_values: int = 0,
    num_columns: int = 0,
    precision: str = "fp32",
) -> EmbeddingBagCollection:
    """The unsharded collection on the meta device, with sum pooling; bags of tracks have length 0 or 1.

    `row_dim`: width of a track's row; `num_signals`, `dim`: rows and width of the signals' table, `num_values`: rows of
    the table of the tracks' values, of the width of a track's row, with a feature for each of `num_columns`. Either
    is left out where it has no rows. `precision`: of the tracks' rows alone.
    """
    columns = [value_feature(column) for column in range(num_columns)]
    sizes: dict[str, tuple[int, int, list[str]]] = {
        TABLE: (num_rows, row_dim, [FEATURE]),
        SIGNAL_TABLE: (num_signals, dim, [SIGNAL_FEATURE]),
        VALUE_TABLE: (num_values, row_dim, columns),
    }
    return EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=name,
                embedding_dim=width,
                num_embeddings=rows,
                feature_names=names,
                pooling=PoolingType.SUM,
                init_fn=torch.nn.init.zeros_,
                data_type=DataType.FP16 if (name, precision) == (TABLE, "fp16") else DataType.FP32,
            )
            for name, (rows, width, names) in sizes.items()
            if rows
        ],
    )


def make_sharder(config: TableConfig) -> EmbeddingBagCollectionSharder:
    """A sharder whose kernels carry the fused optimizer, and whose exchange between ranks is as `config` has it."""
    half = QCommsConfig(forward_precision=CommType.FP16, backward_precision=CommType.BF16)
    return EmbeddingBagCollectionSharder(
        qcomm_codecs_registry=get_qcomm_codecs_registry(half) if config.exchange == "half" else None,
        fused_params={
            "optimizer": _OPTIMIZERS[config.optimizer],
            "learning_rate": config.learning_rate,
            "eps": config.eps,
            "output_dtype": SparseType.FP32,  # of lookups and gradients
        },
    )


def make_plan(
    config: TableConfig, model: nn.Module, path: str, world_size: int, device: str, num_nodes: int = 1
) -> ShardingPlan:
    """The sharding plan of the tables at `path` of `model`; `config` has the width of the tracks' rows.

    Rank 0 holds the few rows of signals, and those of values where they are too few for all ranks. TorchRec's planner
    offers no row-wise sharding on a CPU, so only `planner` asks it.
    """
    sharder = make_sharder(config)
    tables = model.get_submodule(path)
    assert isinstance(tables, EmbeddingBagCollection)
    names = [table.name for table in tables.embedding_bag_configs()]
    if config.sharding == "planner":
        # Unconstrained, it may replicate a small table, which then has no fused optimizer.
        constraint = ParameterConstraints(sharding_types=_PLANNED, compute_kernels=[_FUSED])
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=world_size, compute_device=device),
            constraints=dict.fromkeys(names, constraint),
        )
        return planner.collective_plan(model, [sharder]) if world_size > 1 else planner.plan(model, [sharder])
    holders = list(range(math.prod(config.blocks(world_size, num_nodes))))
    kinds = {
        "row_wise": row_wise(compute_kernel=_FUSED),
        "column_wise": column_wise(ranks=holders, compute_kernel=_FUSED),
        "table_wise": table_wise(rank=0, compute_kernel=_FUSED),
        "grid": grid(num_nodes, _FUSED),
    }
    module_plan: EmbeddingModuleShardingPlan = construct_module_sharding_plan(
        tables,
        {
            # FBGEMM's row-wise Adagrad fails on a rank that holds no row, and signals may be fewer than the ranks.
            table.name: kinds[
                "table_wise"
                if table.name == SIGNAL_TABLE
                or table.name == VALUE_TABLE
                and _too_few(table.num_embeddings, world_size)
                else config.sharding
            ]
            for table in tables.embedding_bag_configs()
        },
        sharder=sharder,
        local_size=world_size // num_nodes if config.sharding == "grid" else world_size,
        world_size=world_size,
        device_type=device,
    )
    return ShardingPlan(plan={path: module_plan})


def _too_few(num_rows: int, world_size: int) -> bool:
    """Whether the last rank would hold no row."""
    first, last = row_block(num_rows, world_size - 1, world_size)
    return first == last


@dataclass
class Shard:
    """A part of the table on this rank: rows from `row`, columns from `column`, and the live tensor."""

    row: int
    column: int
    tensor: Tensor


def local_shards(weight: Tensor | ShardedTensor) -> list[Shard]:
    """This rank's shards of the table weight, from its entry in the sharded module's `state_dict()`."""
    if not isinstance(weight, ShardedTensor):
        return [Shard(0, 0, weight)]
    offsets = ((shard.metadata.shard_offsets, shard.tensor) for shard in weight.local_shards())
    return [Shard(row, column, tensor) for (row, column), tensor in offsets]


def initialize(shards: list[Shard], dim: int, bound: float, seed: int, keep_dim: int = 0) -> None:
    """Fills shards in place. A row's values depend on (seed, row) alone: every sharding starts from the same table.

    The first `dim` columns are the same whether or not `keep_dim` more follow.
    """
    for shard in shards:
        num_rows, columns = shard.tensor.shape
        for block in range(shard.row // _INIT_BLOCK, math.ceil((shard.row + num_rows) / _INIT_BLOCK)):
            values = _initial_block([seed, block], dim, bound)
            if keep_dim:
                values = torch.cat([values, _initial_block([seed, block, 1], keep_dim, bound)], dim=1)
            first, last = max(shard.row, block * _INIT_BLOCK), min(shard.row + num_rows, (block + 1) * _INIT_BLOCK)
            offset = block * _INIT_BLOCK
            piece = values[first - offset : last - offset, shard.column : shard.column + columns]
            with torch.no_grad():
                shard.tensor[first - shard.row : last - shard.row].copy_(piece)


def initial_row(row: int, dim: int, bound: float, seed: int, keep_dim: int = 0) -> Tensor:
    """[dim + keep_dim]: what `initialize` fills one row with."""
    shard = Shard(row, 0, torch.empty(1, dim + keep_dim))
    initialize([shard], dim, bound, seed, keep_dim)
    return shard.tensor[0]


def _initial_block(seeds: list[int], dim: int, bound: float) -> Tensor:
    """[_INIT_BLOCK, dim] of a normal truncated at one deviation, by the inverse of its distribution function."""
    # NumPy's generators take several numbers as a seed; torch's would keep 32 bits of them.
    uniform = np.random.default_rng(seeds).random((_INIT_BLOCK, dim), dtype=np.float32)
    share = math.erf(math.sqrt(0.5))  # of a normal within one deviation
    return torch.erfinv((2 * torch.from_numpy(uniform) - 1) * share) * (math.sqrt(2) * bound)
