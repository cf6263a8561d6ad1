"""Ranks held-out targets over the sharded table, by three protocols (docs/architecture.md, "Evaluation").

Shape legend: B targets of this rank's batch, Q targets of all ranks' batches, S positions, C candidates, R rows of this
rank, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from tqdm import tqdm

from skipwise.common.distributed import device, gather_rows, logger, rank, sum_ranks, world_size
from skipwise.common.errors import UserError
from skipwise.datapipes.batch import EvaluationBatch, EvaluationBatches
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.ranking import Counts, candidate_counts, candidate_scores, full_counts, full_target_scores
from skipwise.models.rows import own_rows
from skipwise.training.build import (
    HeldOut,
    build_model,
    check_device,
    evaluation_loader,
    stateless,
    table_weight,
)
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.config import SPLITS, Protocol, RunConfig, Split
from skipwise.training.evaluation.metrics import NOT_ELIGIBLE
from skipwise.training.evaluation.rank_metrics import RankMetrics
from skipwise.training.evaluation.records import TargetRankWriter
from skipwise.training.run.directory import RunDirectory

Metrics = dict[str, float | int | None]
"""A split's figures by one protocol, as `RankMetrics.compute` returns them."""
RanksOf = Callable[[EvaluationBatch], dict[Protocol, Counts]]
"""The counts of a batch's targets int64 [B] by protocol, over all rows that the protocol may rank."""


def measurable(config: RunConfig) -> tuple[Split, ...]:
    """The splits that a finished run's weights have not been trained on."""
    return SPLITS[1:] if config.train.refit else SPLITS


class Evaluator:
    """Ranks held-out targets by the model's present weights."""

    def __init__(
        self,
        config: RunConfig,
        model: DistributedModelParallel,
        interruptible: Callable[[Iterator[EvaluationBatches], str], Iterator[EvaluationBatches]] | None = None,
    ):
        """`interruptible` passes on the batches of what is measured, on every rank; what it raises ends `measure`."""
        self._config, self._model, self._interruptible = config, model, interruptible

    @torch.no_grad()
    def measure(
        self,
        protocols: Sequence[Protocol],
        split: Split,
        held_out: HeldOut,
        sessions: int,
        record_in: Path | None = None,
    ) -> dict[Protocol, Metrics]:
        """The metrics of `sessions` sessions (0: all) by each protocol, equal on every rank.

        `record_in`: a run directory in which each target's rank is written.
        """
        loader = evaluation_loader(self._config, held_out, protocols, split, sessions)
        table = table_weight(self._model)
        first, rows_RD = own_rows(table, rank(), world_size())
        self._model.eval()
        with _exact_products():
            batches = loader.epoch(0)
            if self._interruptible:
                batches = self._interruptible(batches, f"measuring {split}")
            bar = tqdm(batches, total=loader.steps, desc=split, disable=rank() != 0, leave=False, mininterval=1)
            counts_of = partial(self._counts, protocols=protocols, first=first, rows_RD=rows_RD)
            metrics = measure_ranks(bar, counts_of, protocols, split, table.shape[0], record_in)
        self._model.train()
        return metrics

    def _counts(
        self, batch: EvaluationBatch, protocols: Sequence[Protocol], first: int, rows_RD: Tensor
    ) -> dict[Protocol, Counts]:
        """Of this rank's targets, by each protocol."""
        sessions = batch.sessions.to(device())
        task = self._model.module
        queries_BD = task.learner.predict(task.table(sessions.tracks).values(), sessions)
        queries_QD = gather_rows(queries_BD)
        target_Q = gather_rows(batch.target_B.to(device()))
        found: dict[Protocol, Counts] = {}
        if "paper" in protocols:
            candidates_QC = gather_rows(batch.candidates_BC.to(device()))
            scores_QC, own_QC = candidate_scores(
                queries_QD, torch.cat([target_Q[:, None], candidates_QC], dim=1), first, rows_RD
            )
            scores_Q = sum_ranks(scores_QC[:, 0].contiguous())
            found["paper"] = candidate_counts(scores_QC[:, 1:], scores_Q, own_QC[:, 1:])
        if {"full", "served"} & set(protocols):
            # The number of queries decides how a product rounds: the same on any number of ranks.
            padding = self._config.evaluate.batch_size - len(queries_QD)
            queries_QD = torch.nn.functional.pad(queries_QD, (0, 0, 0, max(padding, 0)))
            target_Q = torch.nn.functional.pad(target_Q, (0, max(padding, 0)), value=-1)
            heard_QS = _gather_padded(_distinct(batch.history_BS.to(device())))
            heard_QS = torch.nn.functional.pad(heard_QS, (0, 0, 0, max(padding, 0)), value=-1)
            scores_Q = sum_ranks(full_target_scores(queries_QD, target_Q, first, rows_RD))
            fresh, heard = full_counts(queries_QD, scores_Q, target_Q, heard_QS, first, rows_RD)
            found["served"] = fresh
            found["full"] = Counts(fresh.above_Q + heard.above_Q, fresh.ties_Q + heard.ties_Q)
        own = slice(rank() * len(batch.target_B), (rank() + 1) * len(batch.target_B))
        return {protocol: Counts(*(sum_ranks(counts_Q)[own] for counts_Q in found[protocol])) for protocol in protocols}


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate_run` measured."""

    metrics: dict[Protocol, dict[Split, Metrics]]
    config: RunConfig
    held_out: dict[Split, HeldOut]


def evaluate_run(
    run: RunDirectory,
    protocols: Sequence[Protocol],
    data: str | None = None,
    positions: Literal["all", "last"] | None = None,
) -> Evaluated:
    """Measures every split that the run was not trained on, on all ranks.

    `data`: a dataset directory whose sessions are measured in place of the run's; `positions` replaces the config's.
    The run's own splits, measured as its config says, are written to `metrics.json` and `ranks/`. Raises
    `UserError` where the data are missing, have other tracks or are not what is asked for, and for
    `positions` of sessions that training has seen.
    """
    store = SessionStore(data) if data else run.open_store()
    config = run.config
    if positions:
        config = replace(config, evaluate=replace(config.evaluate, positions=positions))
        if not (data or store.unseen):
            raise UserError(
                f"--positions {positions} applies to sessions that training has not seen: name them by --data, or "
                f"train on a dataset that prepare --split session or time wrote"
            )
    if store.manifest.vocabulary_hash != run.record.vocabulary_hash:
        raise UserError(
            f"{store.path} has another vocabulary than the data {run.path} was trained on: prepare it again with "
            f"--vocabulary {run.path}"
        )
    _check_measurable(run, store, other=data is not None)
    check_device(stateless(config))
    model = build_model(stateless(config), store.num_tracks, run.record.num_rows)
    load_best(model, run.path)
    evaluator = Evaluator(config, model)
    splits: tuple[Split, ...] = ("test",) if data else measurable(config)
    of = HeldOut.unseen if data else HeldOut.of
    evaluated = Evaluated(
        {protocol: {} for protocol in protocols}, config, {split: of(config.evaluate, store, split) for split in splits}
    )
    record = not data and config == run.config
    for split, held_out in evaluated.held_out.items():
        record_in = run.path if record else None
        found = evaluator.measure(protocols, split, held_out, config.evaluate.sessions, record_in)
        for protocol, values in found.items():
            evaluated.metrics[protocol][split] = values
    if record:
        run.update_metrics(evaluated.metrics)
    return evaluated


def _check_measurable(run: RunDirectory, store: SessionStore, other: bool) -> None:
    """Raises `UserError` for sessions that are not the run's, or are `other` ones that it was trained on."""
    if not other:
        if not run.record.is_same(store.manifest):
            raise UserError(
                f"{store.path} has other sessions than the data {run.path} was trained on, or another split of them: "
                f"prepare those again, or measure these by --data {store.path}"
            )
        return
    for trained in run.trained:
        if trained.data_hash == store.manifest.data_hash:
            if not store.unseen:
                raise UserError(
                    f"{run.path} was trained on the sessions of {store.path}: leave --data out to measure what it held "
                    "out of them, or name other sessions"
                )
        elif (trained.vocabulary_hash, trained.counts) == (store.manifest.vocabulary_hash, store.manifest.counts):
            logger.warning(
                f"{store.path} has as many sessions and plays as data that {run.path} was trained on: where these are "
                "the same ones, it has seen their targets"
            )


def measure_ranks(
    steps: Iterable[EvaluationBatches],
    counts_of: RanksOf,
    protocols: Sequence[Protocol],
    split: Split,
    num_rows: int,
    record_in: Path | None,
) -> dict[Protocol, Metrics]:
    """The metrics over all ranks of the targets whose counts `counts_of` gives, among `num_rows` tracks.

    `record_in`: a directory in which the rank of each is written.
    """
    metrics = {protocol: RankMetrics().to(device()) for protocol in protocols}
    with ExitStack() as closing:
        records = {}
        if record_in:
            for protocol in protocols:
                records[protocol] = closing.enter_context(TargetRankWriter(record_in, protocol, split))
        for batch in _together(steps):
            counts = counts_of(batch)
            for protocol in protocols:
                columns = _columns(batch, counts[protocol], protocol, num_rows)
                if record_in:
                    records[protocol].write(**columns)
                metrics[protocol].update(**{name: values.to(device()) for name, values in columns.items()})
    return {protocol: metrics[protocol].compute() for protocol in protocols}


def _together(steps: Iterable[EvaluationBatches]) -> Iterator[EvaluationBatch]:
    """Each rank's batches one by one; a rank that has fewer of a step adds empty ones."""
    for batches in steps:
        most = torch.tensor(len(batches), device=device())
        if world_size() > 1:
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
        yield from batches
        for _ in range(int(most) - len(batches)):
            yield batches[0].emptied()


def _columns(batch: EvaluationBatch, counts: Counts, protocol: Protocol, num_rows: int) -> dict[str, Tensor]:
    """A record of each target: the columns of `TargetRanks`."""
    repeated_B = batch.repeated_B
    candidates_B = torch.full_like(batch.target_B, num_rows - 1)
    rank_B, ties_B = 1 + counts.above_Q.cpu(), counts.ties_Q.cpu()
    if protocol == "paper":
        candidates_B = (batch.candidates_BC >= 0).sum(dim=1)
    elif protocol == "served":
        candidates_B = num_rows - 1 - (_distinct(batch.history_BS) >= 0).sum(dim=1) + repeated_B.long()
        rank_B = torch.where(repeated_B, NOT_ELIGIBLE, rank_B)
    columns = {
        "session": batch.sessions.session_B,
        "rank": rank_B,
        "ties": ties_B,
        "candidates": candidates_B,
        "skips": batch.target_skips_B,
        "repeated": repeated_B,
        "position": batch.position_B,
        "target": batch.target_B,
    }
    return {name: values[batch.target_B >= 0] for name, values in columns.items()}


def _distinct(history_BS: Tensor) -> Tensor:
    """The rows of each session once, -1 in the place of the others."""
    sorted_BS = history_BS.sort(dim=1).values
    repeats_BS = torch.nn.functional.pad(sorted_BS[:, 1:] == sorted_BS[:, :-1], (1, 0), value=False)
    return sorted_BS.masked_fill(repeats_BS, -1)


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
