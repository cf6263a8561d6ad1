"""`train --follow`: parts of data are validated on and then trained on as they land, for ever."""

import time
from contextlib import nullcontext

from skipwise.common.distributed import broadcast_object, logger, on_all_ranks, on_rank_0
from skipwise.common.product_precision import set_product_precision
from skipwise.common.work_folders import work_folder
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import Signals
from skipwise.training.build import reading_inputs
from skipwise.training.checks import check, warn_without_skips
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.measure_ranks import Metrics
from skipwise.training.follow.arrivals import check_folder
from skipwise.training.follow.followed_run import FollowedRun, steady
from skipwise.training.follow.publishing import Publisher
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.memory_check import check_machines
from skipwise.training.guards.stop_signal import Action, StopSignal
from skipwise.training.loop import train_epoch
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.start import locked_run


def follow(config: RunConfig, recipe: str, publisher: Publisher | None = None) -> RunDirectory:
    """Trains on the parts that land in `config.follow` until SIGTERM, or until none has for `stream.idle_s` seconds.

    Needs a process group. Each part is validated on before it is trained on. The run goes on, from where its last
    checkpoint is, when it is called again. `publisher` gets what has changed.
    """
    store = on_all_ranks(lambda: SessionStore(config.data.path))
    check(config, store)
    steady(config)
    on_rank_0(lambda: check_folder(config.follow))
    store = reading_inputs(config, store)
    warn_without_skips(config, store)
    longest, rows = store.manifest.session_lengths["max"], store.num_tracks + config.stream.spare_rows
    num_signals = Signals.of(config.data.inputs, store.contexts).num_rows
    check_machines(config, rows, longest, work_folder(config.run_dir or "runs"), num_signals)
    deltas = publisher.held(config.init_from) if publisher else nullcontext()
    with deltas, locked_run(config, recipe, store) as run:
        set_product_precision(config.train.matmul)
        clocks = config.checkpoint.minutes, config.stream.delta_minutes
        with StopSignal(*clocks) as stop_signal, HangWatch(config.train.hang_s) as hang_watch:
            job = FollowedRun(run, store, stop_signal, hang_watch, publisher)
            while path := _next_part(job, hang_watch):
                job.open_part(path)
                if job.position.step == 0:
                    _report(job, job.validate_part())
                train_epoch(job)
                job.end_part()
            job.close()
    return run


def _next_part(job: FollowedRun, hang_watch: HangWatch) -> str | None:
    """The path of the next part, once there is one; None where none has come for too long."""
    stream, began, waits = job.config.stream, time.monotonic(), False
    while True:
        hang_watch.heartbeat("waiting for a part")
        if path := on_rank_0(lambda: job.arrivals.take(job.position.epoch)):
            return path
        if job.stop_signal.sync_action(failed=job.failed) == Action.STOP:
            job.stop()
        if not waits:
            logger.info(f"waits for part {job.position.epoch} in {job.config.follow}")
        waits = True
        if broadcast_object(0 < stream.idle_s <= time.monotonic() - began):
            logger.info(f"no part has come for {stream.idle_s:g} s: the same command goes on")
            return None
        time.sleep(stream.poll_s)


def _report(job: FollowedRun, metrics: Metrics) -> None:
    """Writes the validation and moves the running mean; warns where the part lies far below it."""
    stream, selection, number = job.config.stream, job.config.selection, job.position.epoch
    value = selection.value(metrics) if metrics["targets"] else None
    mean, count = job.results.get("mean"), job.results.get("parts", 0)
    figures = {name: of for name, of in metrics.items() if of is not None}
    drop = None if value is None or not mean else 1 - value / mean
    alarm = drop is not None and 0 < stream.alarm_drop < drop
    figures |= {"alarm": alarm} if drop is None else {"running_mean": mean, "drop": drop, "alarm": alarm}
    job.progress.part(number, figures)
    if value is None:
        logger.info(f"part {number}: no play could be validated on")
        return
    logger.info(
        f"part {number}: {selection.name} {value:.4f} before it is trained on, HR@10 {metrics['hr@10']:.4f}, of "
        f"{metrics['targets']:,} plays{f'; mean so far {mean:.4f}' if mean else ''}"
    )
    if alarm and drop:
        logger.warning(
            f"part {number}: {selection.name} {value:.4f} lies {100 * drop:.0f} % below its running mean {mean:.4f} "
            "(--stream.alarm-drop): look at how this part was prepared, and at what listeners met"
        )
    count = min(count + 1, stream.alarm_parts)
    mean = value if mean is None else mean + (value - mean) / count
    job.move(results=job.results | {"mean": mean, "parts": count})
