"""The sweep: Optuna suggests settings, all ranks train them, and their best validation is reported back.

No test target is measured. What a trial tries follows from the seed and the finished trials before it, so an
interrupted sweep continues exactly. Rank 0 alone talks to Optuna.
"""

import gc
import hashlib
import itertools
import json
import math
import random
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from skipwise.common.distributed import barrier, broadcast_object, logger, on_all_ranks, process_group, rank
from skipwise.common.errors import UserError
from skipwise.common.files import read_yaml
from skipwise.common.locks import locked_for_all_ranks
from skipwise.common.mirrors import upload
from skipwise.common.outputs import require_directory
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.config import SweepConfig
from skipwise.studies.search_space import Space, read_space
from skipwise.studies.sweep_report import write_sweep
from skipwise.studies.sweep_study import REFUSED, Sweep, best_trial, finished, open_study
from skipwise.training.checks import check
from skipwise.training.config import RunConfig, SelectionConfig
from skipwise.training.config_fields import from_mapping, nest
from skipwise.training.evaluation.measure_ranks import Metrics
from skipwise.training.loop import train
from skipwise.training.run.directory import CHECKPOINTS


def run_sweep(config: SweepConfig, recipe: RunConfig) -> None:
    """Runs the trials that are missing, each from `recipe`, and writes the sweep's files after each.

    Raises `UserError` for a space or a config that the recipe cannot take, and for an output of another sweep, or one
    that another job uses.
    """
    base = from_mapping(recipe, read_yaml(Path(config.config)), config.config) if config.config else recipe
    store = SessionStore(config.data)
    base = replace(base, run_dir="", data=replace(base.data, path=config.data))
    output = Path(config.output)
    require_directory(output)
    space = read_space(config.space, base)
    identity = {
        "recipe or --config": _digest([config.recipe, asdict(replace(base, data=replace(base.data, path="")))]),
        "space": _digest({field: repr(values) for field, values in space.items()}),
        "seed": str(config.seed),
        "data": _digest([store.manifest.vocabulary_hash, store.manifest.counts, store.manifest.parts]),
    }
    sweep = Sweep(output, config.recipe, recipe, base, space, config.seed, identity)
    with process_group(), ExitStack() as held:
        check(base, store)
        held.enter_context(locked_for_all_ranks(output, "--output"))
        study = on_all_ranks(lambda: open_study(sweep) if rank() == 0 else None)
        while broadcast_object(study is not None and len(finished(study)) < config.trials) and run_trial(sweep, study):
            if study:
                write_sweep(sweep, study)
                upload(output, prune=True)
        if study:
            write_sweep(sweep, study)
        best = "best.yaml" if (output / "best.yaml").exists() else "no best.yaml, for no trial was completed"
        logger.info(f"wrote {output / 'sweep.md'}, sweep.json and {best}")


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def run_trial(sweep: Sweep, study: optuna.Study | None) -> bool:
    """Trains one trial on all ranks and reports it (`study`: on rank 0 alone); False where nothing is left to try."""
    trial: Trial | None = None
    if study is not None and (sampler := _sampler(sweep, len(finished(study)))):
        study.sampler = sampler
        trial = study.ask(sweep.space)
    suggested: tuple[int, dict[str, Any]] | None = broadcast_object(trial and (trial.number, trial.params))
    if suggested is None:
        return False
    number, values = suggested
    path, refusal = sweep.trial_path(number), ""
    pruner = _Pruner(trial, sweep.config.selection, values.get("train.epochs", sweep.config.train.epochs))
    try:
        config = from_mapping(sweep.config, nest(values), f"trial {number}")
        train(replace(config, run_dir=str(path)), sweep.recipe, pruner, test=False)
    except UserError as error:  # raised on all ranks alike: they share the config and the loss
        refusal = str(error)
        logger.info(f"trial {number} is refused: {refusal}")
    # A sharded model refers to itself: without this, several tables would wait to be freed.
    gc.collect()
    if study is not None and trial is not None:
        for name, value in ({REFUSED: refusal} if refusal else pruner.best).items():
            trial.set_user_attr(name, value)
        if refusal:
            study.tell(trial, state=TrialState.FAIL)
            shutil.rmtree(path, ignore_errors=True)
        elif pruner.pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, pruner.best["value"])
        best = best_trial(study)
        for other in finished(study):  # the best trial alone keeps its checkpoints
            if best is None or other.number != best.number:
                shutil.rmtree(sweep.trial_path(other.number) / CHECKPOINTS, ignore_errors=True)
    barrier()
    return True


class _Pruner:
    """Called after each epoch: keeps the trial's best validation, and asks Optuna on rank 0 whether to stop."""

    def __init__(self, trial: Trial | None, selection: SelectionConfig, epochs: int):
        self._trial, self._selection, self._epochs = trial, selection, epochs
        self.best: dict[str, Any] = {"value": -1.0}
        self.pruned = False

    def __call__(self, epoch: int, metrics: Metrics) -> bool:
        value = self._selection.value(metrics)
        if value > self.best["value"]:
            found: dict[str, Any] = {**metrics}
            if self._selection.targets == "kept":  # sessions without one add nothing
                found["sessions"] = min(found["sessions"], found["kept_targets"])
            names = ("hr@10", "hr@1", "ndcg@10", "sessions")
            self.best = {name: found[name] for name in names} | {"value": value, "best_epoch": epoch}
        self.best["epochs"] = epoch
        if self._trial is not None:
            self._trial.report(value, epoch)
            self.pruned = epoch < self._epochs and self._trial.should_prune()
        self.pruned = broadcast_object(self.pruned)
        return self.pruned


def _sampler(sweep: Sweep, num_finished: int) -> BaseSampler | None:
    """The sampler of the next trial; None where the grid is exhausted.

    A new one for each trial: its choice depends on the seed and the finished trials alone, so neither a restart nor
    an interrupted trial changes it.
    """
    seed = int(np.random.SeedSequence((sweep.seed, num_finished)).generate_state(1)[0])
    points = grid(sweep.space, sweep.seed)
    if points is None:
        return TPESampler(seed=seed)
    return PartialFixedSampler(points[num_finished], RandomSampler(seed)) if num_finished < len(points) else None


def grid(space: Space, seed: int) -> list[dict[str, Any]] | None:
    """Every point once, in the seed's order, where all is choices; None for ranges, and for more than 10,000 points.

    Optuna's own `GridSampler` counts the point of an interrupted trial as tried.
    """
    choices = [values.choices for values in space.values() if isinstance(values, CategoricalDistribution)]
    if len(choices) < len(space) or math.prod(map(len, choices)) > 10_000:
        return None
    points = [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]
    random.Random(seed).shuffle(points)
    return points
