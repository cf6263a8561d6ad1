"""Leave-one-out evaluation over the sharded table: `uniform` (1000 unseen candidates) and exact `full` ranking."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from tqdm import tqdm

from datapipes.batch import EvaluationBatch
from datapipes.sessions import SessionStore
from models.rows import own_rows
from training.build import evaluation_loader, table_weight
from training.config import RunConfig
from training.distributed import device, gather_rows, rank, ranks
from training.metrics import RankMetrics
from training.ranking import full_counts, full_target_scores, uniform_scores

Protocol = Literal["uniform", "full"]
SPLITS = ("validation", "test")


class Evaluator:
    """Ranks held-out targets under the model's present weights."""

    def __init__(self, config: RunConfig, store: SessionStore, model: DistributedModelParallel):
        self._config, self._store, self._model = config, store, model

    @torch.no_grad()
    def measure(self, protocol: Protocol, split: str, sessions: int) -> dict[str, float | int]:
        """HR@{1,5,10,20}, NDCG@10 and MRR over `sessions` sessions (0: all), equal on every rank."""
        loader = evaluation_loader(self._config, self._store, protocol, split, sessions)
        metrics = RankMetrics().to(device())
        first, rows_RD = own_rows(table_weight(self._model), rank(), ranks())
        self._model.eval()
        with _exact_products():
            batches = tqdm(
                loader.epoch(0),
                total=loader.steps,
                desc=f"{protocol} {split}",
                disable=rank() != 0,
                leave=False,
                mininterval=1,
            )
            for batch in batches:
                rank_B = self._ranks(batch, protocol, first, rows_RD)
                metrics.update(rank_B[batch.target_B.to(device()) >= 0])
        self._model.train()
        return metrics.compute()

    def _ranks(self, batch: EvaluationBatch, protocol: Protocol, first: int, rows_RD: Tensor) -> Tensor:
        """int64 [B]: the rank of each of this rank's targets, 1 is best."""
        sessions = batch.sessions.to(device())
        task = self._model.module
        queries_QD = gather_rows(task.learner.predict(task.table(sessions.tracks).values(), sessions))
        target_Q = gather_rows(batch.target_B.to(device()))
        if protocol == "uniform":
            candidates_QC = gather_rows(batch.candidates_BC.to(device()))
            scores_QC, own_QC = uniform_scores(
                queries_QD, torch.cat([target_Q[:, None], candidates_QC], dim=1), first, rows_RD
            )
            target_scores_Q = _sum(scores_QC[:, 0].contiguous())
            counts_Q = (~(scores_QC[:, 1:] < target_scores_Q[:, None]) & own_QC[:, 1:]).sum(dim=1)
        else:
            target_scores_Q = _sum(full_target_scores(queries_QD, target_Q, first, rows_RD))
            excluded_QX = target_Q[:, None]
            if self._config.evaluate.filter_history:
                excluded_QX = torch.cat([excluded_QX, _gather_padded(batch.history_BT.to(device()))], dim=1)
            counts_Q = full_counts(queries_QD, target_scores_Q, excluded_QX, first, rows_RD)
        own = slice(rank() * len(batch.target_B), (rank() + 1) * len(batch.target_B))
        return 1 + _sum(counts_Q)[own]


def _sum(values: Tensor) -> Tensor:
    if ranks() > 1:
        dist.all_reduce(values)
    return values


def _gather_padded(history_BT: Tensor) -> Tensor:
    """`gather_rows` for ranks whose longest sessions differ."""
    width = torch.tensor(history_BT.shape[1], device=history_BT.device)
    if ranks() > 1:
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
    padding = int(width) - history_BT.shape[1]
    return gather_rows(torch.nn.functional.pad(history_BT, (0, padding), value=-1))


@contextmanager
def _exact_products() -> Iterator[None]:
    """Full float32 matrix products, whatever precision training uses."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
