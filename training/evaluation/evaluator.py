"""Ranks held-out targets over the sharded table, by three protocols (docs/architecture.md, "Evaluation").

Shape legend: B targets of this rank's batch, Q targets of all ranks' batches, S positions, C candidates, R rows of this
rank, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from tqdm import tqdm

from skipwise.common.distributed import device, gather_rows, logger, on_rank_0, rank, sum_ranks, world_size
from skipwise.common.errors import UserError
from skipwise.common.locks import locked_for_all_ranks
from skipwise.common.product_precision import exact_products
from skipwise.datapipes.batch import EvaluationBatch, EvaluationBatches
from skipwise.datapipes.overlap import shared_sessions
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.dial import dialled
from skipwise.models.ranking import Counts, candidate_counts, candidate_scores, full_counts, full_target_scores
from skipwise.training.build import (
    HeldOut,
    build_model,
    cold_tracks,
    evaluation_loader,
    stateless,
    table_weight,
    track_rows,
    training_data,
)
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.checks import check_device
from skipwise.training.config import SPLITS, Protocol, RunConfig, Split
from skipwise.training.evaluation.measure_ranks import Metrics, Ranked, measure_ranks
from skipwise.training.evaluation.skip_measures import second_half
from skipwise.training.evaluation.skip_metrics import skip_columns
from skipwise.training.run.directory import RunDirectory


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
        cold_N: np.ndarray | None = None,
        num_rows: int | None = None,
    ):
        """`interruptible` passes on the batches of what is measured, on every rank; what it raises ends `measure`.
        `cold_N`: see `cold_tracks`; `num_rows`: of the table's rows, how many belong to tracks, None for all."""
        self._config, self._model, self._interruptible, self._cold_N = config, model, interruptible, cold_N
        self._num_rows = num_rows

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
        self._model.eval()
        num_rows = table_weight(self._model).shape[0] if self._num_rows is None else self._num_rows
        first, rows_RD = track_rows(self._model, held_out.sessions.features, num_rows)
        with exact_products():
            batches = loader.epoch(0)
            if self._interruptible:
                batches = self._interruptible(batches, f"measuring {split}")
            bar = tqdm(batches, total=loader.steps, desc=split, disable=rank() != 0, leave=False, mininterval=1)
            halves = held_out.targets == "all"  # equal on every rank
            ranks_of = partial(self._ranked, protocols=protocols, first=first, rows_RD=rows_RD, halves=halves)
            metrics = measure_ranks(bar, ranks_of, protocols, split, num_rows, record_in, self._cold_N)
        self._model.train()
        return metrics

    def _ranked(
        self, batch: EvaluationBatch, protocols: Sequence[Protocol], first: int, rows_RD: Tensor, halves: bool
    ) -> Ranked:
        """Of this rank's targets, by each protocol; `halves`: whether second halves of sessions are measured (MAA)."""
        sessions = batch.sessions.to(device())
        task, keep_dim = self._model.module, self._config.loss.keep_width
        rows_UX, signals_MD = task.look_up(sessions)
        outputs_QX = gather_rows(task.learner.predict(rows_UX, sessions, signals_MD))
        queries_QD = dialled(outputs_QX, keep_dim, self._config.evaluate.dial)
        target_Q = gather_rows(batch.target_B.to(device()))
        upcoming_QW = gather_padded(batch.upcoming_BW.to(device()))
        halved_QX = outputs_QX if halves else None
        if halves and keep_dim and self._config.data.inputs:
            halved = replace(sessions, signals_BTC=batch.halved_signals_BTC.to(device()))
            halved_QX = gather_rows(task.learner.predict(rows_UX, halved, signals_MD))
        skips = skip_columns(outputs_QX, queries_QD, keep_dim, target_Q, upcoming_QW, first, rows_RD, halved_QX)
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
            heard_QS = gather_padded(batch.history_BS.to(device()))
            heard_QS = torch.nn.functional.pad(heard_QS, (0, 0, 0, max(padding, 0)), value=-1)
            scores_Q = sum_ranks(full_target_scores(queries_QD, target_Q, first, rows_RD))
            fresh, heard = full_counts(queries_QD, scores_Q, target_Q, heard_QS, first, rows_RD)
            found["served"] = fresh
            found["full"] = Counts(fresh.above_Q + heard.above_Q, fresh.ties_Q + heard.ties_Q)
        own = slice(rank() * len(batch.target_B), (rank() + 1) * len(batch.target_B))
        skips_of_B = {name: values_Q[own].cpu() for name, values_Q in skips.items()}
        half_B = torch.from_numpy(second_half(batch.position_B.numpy(), batch.plays_B.numpy())) & (batch.plays_B > 0)
        skips_of_B["halved_probability"] = skips_of_B["halved_probability"].where(half_B, torch.nan)
        return Ranked(
            {name: Counts(*(sum_ranks(counts_Q)[own] for counts_Q in found[name])) for name in protocols}, skips_of_B
        )


@dataclass(frozen=True)
class Measured:
    """What of a run is to be measured."""

    config: RunConfig
    held_out: dict[Split, HeldOut]
    store: SessionStore
    """The data that the run was trained on, or whose sessions are measured in their place."""
    own: bool
    """Whether these are the run's own splits and targets, whose figures are kept in its directory."""

    @contextmanager
    def best_model(self, run: RunDirectory) -> Iterator[DistributedModelParallel]:
        """The run's best weights; nobody else writes into its directory meanwhile, where it is written."""
        check_device(stateless(self.config))
        with locked_for_all_ranks(run.path) if self.own else nullcontext():
            known = self.store.num_tracks, run.table_rows, run.record.contexts, self.store.features
            model = build_model(stateless(self.config), *known, to_load=True)
            load_best(model, run.path)
            yield model


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate_run` measured."""

    metrics: dict[Protocol, dict[Split, Metrics]]
    config: RunConfig
    held_out: dict[Split, HeldOut]


def what_to_measure(
    run: RunDirectory, data: str | None = None, positions: Literal["all", "last"] | None = None
) -> Measured:
    """Every split that the run was not trained on.

    `data`: a dataset directory whose sessions are measured in place of the run's; `positions` replaces the config's.
    Raises `UserError` where the data are missing, have other tracks or are not what is asked for, and for `positions`
    of sessions that training has seen.
    """
    store, config = SessionStore(data).reading(run.record.contexts) if data else run.open_store(), run.config
    if data:
        store = store.featuring(run.open_features() if config.data.features else ()).profiling(config.data.profile)
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
    splits: tuple[Split, ...] = ("test",) if data else measurable(config)
    of = HeldOut.unseen if data else HeldOut.of
    held_out = {split: of(config.evaluate, store, split) for split in splits}
    if data:
        _warn_of_overlap(run, held_out["test"].sessions)
    return Measured(config, held_out, store, own=not data and config == run.config)


def evaluate_run(
    run: RunDirectory,
    protocols: Sequence[Protocol],
    data: str | None = None,
    positions: Literal["all", "last"] | None = None,
) -> Evaluated:
    """Measures `what_to_measure`, on all ranks.

    The run's own splits, measured as its config says, are written to `metrics.json` and `ranks/`. Raises `UserError`
    also where another job uses the run directory that would be written.
    """
    asked = what_to_measure(run, data, positions)
    evaluated = Evaluated({protocol: {} for protocol in protocols}, asked.config, asked.held_out)
    with asked.best_model(run) as model:
        # Of other sessions it is not known which of their tracks are cold: training may have been on any.
        cold_N = None if data else cold_tracks(asked.config, asked.store, asked.config.train.refit)
        evaluator = Evaluator(asked.config, model, cold_N=cold_N, num_rows=run.record.num_rows)
        for split, held_out in asked.held_out.items():
            record_in = run.path if asked.own else None
            found = evaluator.measure(protocols, split, held_out, asked.config.evaluate.sessions, record_in)
            for protocol, values in found.items():
                evaluated.metrics[protocol][split] = values
        if asked.own:
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


def _warn_of_overlap(run: RunDirectory, measured: SessionStore) -> None:
    """Says how many of the measured sessions a run was trained on, or the runs that it started from."""
    while True:
        try:
            own = SessionStore(run.config.data.path)
        except UserError:
            own = None
        if own is None or not run.record.is_same(own.manifest):
            logger.warning(
                f"{run.config.data.path}, on which {run.path} was trained, has changed or is not there: whether the "
                f"sessions of {measured.path} are among its sessions is not known; prepare it there again as it was"
            )
        elif not run.record.is_same(measured.manifest):
            trained, _ = training_data(own, run.config.train.refit)
            if count := on_rank_0(partial(shared_sessions, measured, trained)):
                logger.warning(
                    f"{run.path} was trained on {count:,} of the {len(measured):,} sessions of {measured.path} that "
                    "are measured (the same tracks in the same order, or the same id and a part of the tracks), which "
                    "raises the figures: prepare the one log with --split session or --split time, train on that, and "
                    "leave --data out, or give --data a log of later sessions"
                )
        if not run.config.init_from:
            return
        try:
            run = RunDirectory.open(run.config.init_from)
        except UserError:
            logger.warning(
                f"{run.config.init_from} is not there: whether it was trained on the sessions of {measured.path} is "
                "not known; put that run back to have them compared"
            )
            return


def gather_padded(history_BS: Tensor) -> Tensor:
    """`gather_rows` for ranks whose longest sessions differ: -1 behind the shorter ones."""
    width = torch.tensor(history_BS.shape[1], device=history_BS.device)
    if world_size() > 1:
        dist.all_reduce(width, op=dist.ReduceOp.MAX)
    padding = int(width) - history_BS.shape[1]
    return gather_rows(torch.nn.functional.pad(history_BS, (0, padding), value=-1))
