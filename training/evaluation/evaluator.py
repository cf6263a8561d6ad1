"""Leave-one-out evaluation over the sharded table: `uniform` (1000 unseen candidates) and exact `full` ranking."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import MetricCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from tqdm import tqdm

from skipwise.common.distributed import device, gather_rows, rank, sum_ranks, world_size
from skipwise.datapipes.batch import EvaluationBatch
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.ranking import full_counts, full_target_scores, uniform_scores
from skipwise.models.rows import own_rows
from skipwise.training.build import build_model, check, evaluation_loader, stateless, table_weight
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.config import SPLITS, EvaluateConfig, Protocol, RunConfig, Split
from skipwise.training.evaluation.rank_metrics import RankMetrics, SkipRanking
from skipwise.training.evaluation.records import TargetRankWriter
from skipwise.training.run.directory import RunDirectory


def measurable(config: RunConfig) -> tuple[Split, ...]:
    """The splits that a finished run's weights have not been trained on."""
    return SPLITS[1:] if config.train.refit else SPLITS


class Evaluator:
    """Ranks held-out targets by the model's present weights."""

    def __init__(
        self,
        config: RunConfig,
        store: SessionStore,
        model: DistributedModelParallel,
        interruptible: Callable[[Iterator[EvaluationBatch], str], Iterator[EvaluationBatch]] | None = None,
    ):
        """`interruptible` passes on the batches of what is measured, on every rank; what it raises ends `measure`."""
        self._config, self._store, self._model, self._interruptible = config, store, model, interruptible

    @torch.no_grad()
    def measure(
        self, protocol: Protocol, split: Split, sessions: int, record_in: Path | None = None
    ) -> dict[str, float | int]:
        """HR@{1,5,10,20}, NDCG@10 and MRR over `sessions` sessions (0: all), and the ranking of skipped targets.

        Equal on every rank. `record_in`: a run directory in which each session's rank is written.
        """
        loader = evaluation_loader(self._config, self._store, protocol, split, sessions)
        first, rows_RD = own_rows(table_weight(self._model), rank(), world_size())
        rows_RD = rows_RD[: max(self._store.num_tracks - first, 0)]  # later rows are of tracks that the dataset lacks
        self._model.eval()
        with _exact_products(), TargetRankWriter(record_in, protocol, split) if record_in else nullcontext() as record:
            batches = loader.epoch(0)
            if self._interruptible:
                batches = self._interruptible(batches, f"measuring {protocol} {split}")
            bar = tqdm(
                batches,
                total=loader.steps,
                desc=f"{protocol} {split}",
                disable=rank() != 0,
                leave=False,
                mininterval=1,
            )
            ranks_of = partial(self._target_ranks, protocol=protocol, first=first, rows_RD=rows_RD)
            metrics = measure_ranks(bar, ranks_of, protocol, self._config.evaluate, self._store.num_tracks, record)
        self._model.train()
        return metrics

    def _target_ranks(self, batch: EvaluationBatch, protocol: Protocol, first: int, rows_RD: Tensor) -> Tensor:
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
            target_scores_Q = sum_ranks(scores_QC[:, 0].contiguous())
            counts_Q = (~(scores_QC[:, 1:] < target_scores_Q[:, None]) & own_QC[:, 1:]).sum(dim=1)
        else:
            target_scores_Q = sum_ranks(full_target_scores(queries_QD, target_Q, first, rows_RD))
            excluded_QX = target_Q[:, None]
            if self._config.evaluate.filter_history:
                excluded_QX = torch.cat([excluded_QX, _gather_padded(batch.history_BS.to(device()))], dim=1)
            counts_Q = full_counts(queries_QD, target_scores_Q, excluded_QX, first, rows_RD)
        own = slice(rank() * len(batch.target_B), (rank() + 1) * len(batch.target_B))
        return 1 + sum_ranks(counts_Q)[own]


def evaluate_run(run: RunDirectory, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Measures every split that the run was not trained on, on all ranks; returns each split's metrics.

    Writes them to the protocol's section of `metrics.json`. Raises `UserError` where the run's data are missing or
    have other tracks.
    """
    store, config = run.open_store(), stateless(run.config)
    check(config, store)
    model = build_model(config, store.num_tracks, run.record.num_rows)
    load_best(model, run.path)
    evaluator = Evaluator(run.config, store, model)
    metrics: dict[str, dict[str, Any]] = {
        split: evaluator.measure(protocol, split, run.config.evaluate.sessions, run.path)
        for split in measurable(run.config)
    }
    run.update_metrics({protocol: metrics})
    return metrics


def measure_ranks(
    batches: Iterable[EvaluationBatch],
    ranks_of: Callable[[EvaluationBatch], Tensor],
    protocol: Protocol,
    config: EvaluateConfig,
    num_tracks: int,
    record: TargetRankWriter | None,
) -> dict[str, float | int]:
    """The metrics, over all ranks, of the ranks int64 [B] that `ranks_of` gives a batch's targets.

    `record`: where each is written.
    """
    metrics = MetricCollection([RankMetrics(), SkipRanking()]).to(device())
    for batch in batches:
        real_B = batch.target_B >= 0
        columns = {
            "session": batch.sessions.session_B,
            "rank": ranks_of(batch),
            "candidates": _candidate_counts(batch, protocol, num_tracks, config.filter_history),
            "skips": batch.target_skips_B,
            "position": batch.position_B,
            "target": batch.target_B,
        }
        columns = {name: values[real_B.to(values.device)] for name, values in columns.items()}
        if record:
            record.write(**columns)
        metrics.update(**{name: columns[name].to(device()) for name in ("rank", "candidates", "skips")})
    return metrics.compute()


def _candidate_counts(batch: EvaluationBatch, protocol: Protocol, num_tracks: int, filter_history: bool) -> Tensor:
    """int64 [B]: how many tracks each target is ranked among, itself left out."""
    if protocol == "uniform":
        return torch.full_like(batch.target_B, batch.candidates_BC.shape[1])
    others_B = torch.full_like(batch.target_B, num_tracks - 1)
    if not filter_history:
        return others_B
    history_BS = torch.where(batch.history_BS == batch.target_B[:, None], -1, batch.history_BS).sort(dim=1).values
    first_BS = torch.nn.functional.pad(history_BS[:, 1:] != history_BS[:, :-1], (1, 0), value=True)
    return others_B - (first_BS & (history_BS >= 0)).sum(dim=1)


def _gather_padded(history_BS: Tensor) -> Tensor:
    """`gather_rows` for ranks whose longest sessions differ."""
    width = torch.tensor(history_BS.shape[1], device=history_BS.device)
    if world_size() > 1:
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
    padding = int(width) - history_BS.shape[1]
    return gather_rows(torch.nn.functional.pad(history_BS, (0, padding), value=-1))


@contextmanager
def _exact_products() -> Iterator[None]:
    """Full float32 matrix products, whatever precision training uses."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
