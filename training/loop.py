"""The training loop, top to bottom."""

import gc
from collections.abc import Callable, Iterator

import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from datapipes.batch import SessionBatch
from datapipes.collate import HELD_OUT
from datapipes.sessions import SessionStore
from models.task import StepLosses
from training.build import build_model, check, train_loader
from training.checkpoint import load_best, save_best
from training.config import RunConfig
from training.distributed import device, logger, rank, ranks
from training.evaluate import PROTOCOLS, Evaluator
from training.optimizer import make_optimizer
from training.progress import Progress
from training.report import hit_rate_table
from training.run import RunDirectory

Watch = Callable[[int, dict[str, float | int]], bool]
"""Told the epoch and its validation metrics on every rank; where all return True, training ends."""


def train(config: RunConfig, recipe: str, watch: Watch | None = None, test: bool = True) -> RunDirectory:
    """Trains, keeps the weights with the best validation HR@10, and tests those once at the end.

    Needs a process group (`training.distributed.process_group`). Writes the run directory and returns it. Without
    `test`, no test target is looked at, and the metrics end with the best weights' validation.
    """
    store = SessionStore(config.data.path)
    check(config, store)
    longest = store.manifest.session_lengths["max"]
    if longest > config.encoder.max_length:
        logger.info(f"sessions have up to {longest} tracks: the last {config.encoder.max_length} are read")
    run = RunDirectory.create(config, recipe, store)
    config = run.config
    torch.set_float32_matmul_precision(config.train.matmul)
    training = Training(config, store, HELD_OUT["validation"])
    evaluator = Evaluator(config, store, training.model)
    progress = Progress(run, training.loader.steps, len(store))
    best, best_epoch = -1.0, 0
    for epoch in range(1, config.train.epochs + 1):
        progress.steps(epoch, training.epoch(epoch))
        metrics = evaluator.measure("uniform", "validation", config.train.validation_sessions)
        better = metrics["hr@10"] > best
        progress.validation(epoch, metrics, better)
        if better:
            best, best_epoch = metrics["hr@10"], epoch
            save_best(training.model, run.path)
        stop = watch is not None and watch(epoch, metrics)
        if stop or (config.train.patience and epoch - best_epoch >= config.train.patience):
            break
    load_best(training.model, run.path)
    results = {}
    for protocol in PROTOCOLS if test else PROTOCOLS[:1]:
        record_in = run.path if test else None
        values = evaluator.measure(protocol, "validation", config.evaluate.sessions, record_in)
        results[protocol] = {"validation": values}
    if test:
        if config.train.refit:
            del training, evaluator
            gc.collect()  # they hang together in cycles, and their table must make room for the next
            training = Training(config, store, HELD_OUT["test"])
            for epoch in range(1, best_epoch + 1):
                progress.steps(epoch, training.epoch(epoch), "refit")
            save_best(training.model, run.path)
            evaluator = Evaluator(config, store, training.model)
        for protocol in PROTOCOLS:
            results[protocol]["test"] = evaluator.measure(protocol, "test", config.evaluate.sessions, run.path)
    progress.close()
    results["train"] = {
        "sessions_per_s": progress.sessions_per_s,
        "epochs": progress.epochs,
        "best_epoch": best_epoch,
        "seconds": progress.seconds,
    }
    run.update_metrics(results)
    logger.info(hit_rate_table(results, config))
    logger.info(f"run directory: {run.path}")
    return run


class Training:
    """A fresh model and what trains it, on all but each session's last `held_out` tracks."""

    def __init__(self, config: RunConfig, store: SessionStore, held_out: int):
        torch.manual_seed(config.train.seed * ranks() + rank())
        self.model = build_model(config, store.tracks)
        self.loader = train_loader(config, store, held_out)
        steps = self.loader.steps * config.train.epochs
        optimizer = make_optimizer(self.model, config.optimizer, config.table, steps)
        self._pipeline = TrainPipelineSparseDist(self.model, optimizer, device())

    def epoch(self, number: int) -> Iterator[StepLosses]:
        """Trains through one epoch, yielding each step's losses."""
        self.model.train()
        yield from pipelined(self._pipeline, self.loader.epoch(number))
        self._pipeline.detach()


def pipelined(pipeline: TrainPipelineSparseDist, batches: Iterator[SessionBatch]) -> Iterator[StepLosses]:
    """Trains on every batch, the next one's ids already under way, and yields the losses."""
    while True:
        try:
            yield pipeline.progress(batches)
        except StopIteration:
            return
