"""The training loop: epochs of steps, the validation after each, the refit and the test."""

from collections.abc import Callable

from skipwise.common.distributed import logger, on_all_ranks
from skipwise.common.product_precision import set_product_precision
from skipwise.common.work_folders import work_folder
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import Signals
from skipwise.training.active_run import ActiveRun
from skipwise.training.build import reading_inputs
from skipwise.training.checks import check, warn_without_skips
from skipwise.training.config import PROTOCOLS, RunConfig, TrainConfig
from skipwise.training.evaluation.hit_rate_table import hit_rate_table
from skipwise.training.evaluation.measure_ranks import Metrics
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.memory_check import check_machines
from skipwise.training.guards.stop_signal import Action, StopSignal
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.position import Position
from skipwise.training.run.start import locked_run
from skipwise.training.trainer import seed_dropout

StopEarly = Callable[[int, Metrics], bool]
"""Called with the epoch and its validation metrics on every rank; training ends where it returns True on all."""


def train(config: RunConfig, recipe: str, stop_early: StopEarly | None = None, test: bool = True) -> RunDirectory:
    """Trains, keeps the weights with the best validation (`config.selection`), and tests those once at the end.

    Needs a process group (`common.distributed.process_group`). Writes the run directory and returns it; continues an
    unfinished run of this config that is there. Without `test`, no test target is read, and the metrics end with the
    best weights' validation. SIGTERM ends it with `Stopped`, the state saved.
    """
    store = on_all_ranks(lambda: SessionStore(config.data.path))
    check(config, store)
    store = reading_inputs(config, store)
    longest = store.manifest.session_lengths["max"]
    if longest > config.encoder.max_length:
        logger.info(f"sessions have up to {longest} tracks: the last {config.encoder.max_length} are read")
    warn_without_skips(config, store)
    num_signals = Signals.of(config.data.inputs, store.contexts).num_rows
    num_values = store.features.num_values if store.features else 0
    check_machines(config, store.num_tracks, longest, work_folder(config.run_dir or "runs"), num_signals, num_values)
    with locked_run(config, recipe, store) as run:
        if run.finished:
            logger.info(f"{run.path} is finished already; choose another --run-dir to train again")
            logger.info(hit_rate_table(run.metrics(), run.config))
            return run
        set_product_precision(config.train.matmul)
        with StopSignal(config.checkpoint.minutes) as stop_signal, HangWatch(config.train.hang_s) as hang_watch:
            _train_and_test(ActiveRun(run, store, stop_signal, hang_watch), stop_early, test)
    return run


def _train_and_test(job: ActiveRun, stop_early: StopEarly | None, test: bool) -> None:
    """The loop. It keeps no reference to a model, which the refit must be able to free."""
    config, run = job.config, job.run
    results, stopped = job.position.results, False
    phases = [job.position.phase]
    if phases == ["train"] and test and config.train.refit:
        phases.append("refit")
    for phase in phases:
        if phase != job.position.phase:
            job.start_refit(results)

        while _epoch_is_due(config.train, job.position, stopped):
            epoch = job.position.epoch
            train_epoch(job)
            if phase == "refit":
                job.move(epoch=epoch + 1, step=0)
                continue
            metrics = job.validate()
            value = config.selection.value(metrics)
            better = value > job.position.best
            job.progress.validation(epoch, metrics, better)
            if better:
                job.move(best=value, best_epoch=epoch)
            job.move(epoch=epoch + 1, step=0)
            if better:
                job.save(best=True)
            stopped = stop_early is not None and stop_early(epoch, metrics)

        job.save(best=phase == "refit")
        if phase == "train":
            job.load_best()
            protocols = PROTOCOLS if test else (config.selection.protocol,)
            found = job.measure(protocols, "validation", record=test)
            results = {protocol: {"validation": values} for protocol, values in found.items()}
            results["train"] = {"epochs": job.position.epoch - 1}

    job.checkpoints.close()
    job.load_best()
    if test:
        for protocol, values in job.measure(PROTOCOLS, "test", record=True).items():
            results[protocol] = results.get(protocol, {}) | {"test": values}
    job.progress.close()
    results["train"] = {
        "sessions_per_s": job.progress.sessions_per_s,
        "epochs": results.get("train", {}).get("epochs", job.position.best_epoch),
        "best_epoch": job.position.best_epoch,
        "selected_by": config.selection.name,
        "starts_from_other_data": run.starts_from_other_data,
        "seconds": job.progress.seconds,
    }
    run.update_metrics(results)
    job.progress.tracking.end(run.metrics())
    logger.info(hit_rate_table(results, config))


def train_epoch(job: ActiveRun) -> None:
    """The steps left of the epoch at the run's position, and between two of them what is due."""
    config, epoch = job.config, job.position.epoch
    job.trainer.model.train()
    batches = job.batches()
    for step in job.progress.steps(job.position):
        seed_dropout(config.train.seed, epoch, step - 1)
        losses = job.trainer.step(batches)
        job.progress.step_done(step, losses)
        job.move(step=step, steps=job.progress.trained, seconds=job.progress.seconds)
        job.non_finite.record(epoch, step)
        if step % config.train.log_every == 0:
            job.non_finite.look()

        action = job.stop_signal.sync_action(failed=job.failed)
        last = step == job.num_steps
        if action < Action.SAVE and config.checkpoint.every and not last and step % config.checkpoint.every == 0:
            action = Action.SAVE
        if action != Action.GO_ON or last:
            job.non_finite.check(job.run.path)
        if action == Action.FAIL:
            job.checkpoints.wait()
        elif action == Action.STOP:
            job.stop()
        elif action == Action.SAVE:
            job.save()
        elif action == Action.PUBLISH:
            job.publish()
        else:
            job.step_done()
    job.trainer.detach()


def _epoch_is_due(config: TrainConfig, position: Position, stopped: bool) -> bool:
    """Whether the epoch at `position` is to be trained: patience is not used up, and no other limit is reached."""
    if position.phase == "refit":
        return position.epoch <= position.best_epoch
    out_of_patience = 0 < config.patience <= position.epoch - 1 - position.best_epoch
    return position.epoch <= config.epochs and not stopped and not out_of_patience
