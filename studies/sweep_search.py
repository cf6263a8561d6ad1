"""The search itself: Optuna asks, ranks train, validation answers. No test target is ever looked at.

What a trial tries follows from the seed and the finished trials before it: an interrupted sweep goes on as it would
have. Rank 0 alone talks to Optuna.
"""

import gc
import itertools
import math
import random
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from skipwise.common.distributed import barrier, broadcast_object, logger
from skipwise.common.errors import UserError
from skipwise.studies.search_space import Choices, Space, Values, changed
from skipwise.training.config import RunConfig
from skipwise.training.loop import train
from skipwise.training.run.directory import CHECKPOINTS

REFUSED = "refused"
_PRUNE_AFTER_TRIALS, _PRUNE_AFTER_EPOCHS = 5, 3
_LARGEST_GRID = 10_000


@dataclass(frozen=True)
class Sweep:
    """What is searched, and where it is kept."""

    output: Path
    recipe: str
    plain: RunConfig
    """The recipe itself, which `best.yaml` is read on top of."""
    config: RunConfig
    """What every trial starts from."""
    space: Space
    seed: int
    identity: dict[str, str]
    """What a store must have been made with to be continued."""


def open_study(sweep: Sweep) -> optuna.Study:
    """The study under `output`, new or as it was left; refuses another sweep's. Trials cut short are tried again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    file = sweep.output / "study.jsonl"
    try:
        sweep.output.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file))),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
            # A trial whose validation is below the median of those before at the same epoch is not worth its time.
            pruner=optuna.pruners.MedianPruner(_PRUNE_AFTER_TRIALS, _PRUNE_AFTER_EPOCHS),
        )
    except OSError as error:
        raise UserError(f"cannot write to {sweep.output} ({error.strerror}): choose another --output") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a study that sweep wrote: choose another --output") from error
    kept = study.user_attrs
    for name, value in sweep.identity.items():
        if name not in kept:
            study.set_user_attr(name, value)
        elif kept[name] != value:
            raise UserError(f"{sweep.output} was swept with another {name}: choose another --output")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        path = trial_path(sweep.output, trial.number)
        for left in (path, _aside(path)):
            shutil.rmtree(left, ignore_errors=True)
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were run to an end: complete, pruned, or refused by the config or by a loss that was not finite."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in done if trial.state != TrialState.FAIL or REFUSED in trial.user_attrs]


def run_trial(sweep: Sweep, study: optuna.Study | None) -> bool:
    """Asks for, runs and tells one trial on all ranks (`study`: rank 0's alone); False where nothing is left to try."""
    trial, asked = None, None
    if study is not None:
        sampler = _sampler(sweep, len(finished(study)))
        if sampler is not None:
            study.sampler = sampler
            trial = study.ask()
            asked = trial.number, {field: what.suggest(trial, field) for field, what in sweep.space.items()}
    asked = broadcast_object(asked)
    if asked is None:
        return False
    number, values = asked
    path = trial_path(sweep.output, number)
    refusal = None
    try:
        config = replace(changed(sweep.config, values, f"trial {number}"), run_dir=str(_aside(path)))
        watch = _Watch(trial, config.train.epochs)
        train(config, sweep.recipe, watch, test=False)
    except UserError as error:  # raised on all ranks alike: the config is theirs, and so is the loss
        refusal = str(error)
        logger.info(f"trial {number} is refused: {refusal}")
    # A sharded model refers to itself: left to chance, several tables would wait to be freed.
    gc.collect()
    if study is not None and refusal:
        trial.set_user_attr(REFUSED, refusal)
        study.tell(trial, state=TrialState.FAIL)
        shutil.rmtree(_aside(path), ignore_errors=True)
    elif study is not None:
        _aside(path).rename(path)
        for name, value in watch.best.items():
            trial.set_user_attr(name, value)
        if watch.pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, watch.best["hr@10"])
        _keep_best_checkpoint(sweep.output, study)
    barrier()
    return True


class _Watch:
    """Keeps the best validation of a trial and asks Optuna, through rank 0, whether to go on."""

    def __init__(self, trial: Trial | None, epochs: int):
        self._trial, self._epochs = trial, epochs
        self.best: dict[str, Any] = {"hr@10": -1.0}
        self.pruned = False

    def __call__(self, epoch: int, metrics: dict[str, float | int]) -> bool:
        if metrics["hr@10"] > self.best["hr@10"]:
            names = ("hr@10", "hr@1", "ndcg@10", "sessions")
            self.best = {name: metrics[name] for name in names} | {"best_epoch": epoch}
        self.best["epochs"] = epoch
        if self._trial is not None:
            self._trial.report(metrics["hr@10"], epoch)
            self.pruned = epoch < self._epochs and self._trial.should_prune()
        self.pruned = broadcast_object(self.pruned)
        return self.pruned


def trial_path(output: Path, number: int) -> Path:
    """Where a finished trial's run directory is."""
    return output / "trials" / f"{number:04}"


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the highest validation HR@10, the first of equals."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: trial.value, default=None)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _sampler(sweep: Sweep, done: int) -> BaseSampler | None:
    """What decides on the next trial once `done` are finished; None where the grid is.

    Made anew for each trial: a restart changes nothing, nor does a trial that was cut short.
    """
    seed = int(np.random.SeedSequence((sweep.seed, done)).generate_state(1)[0])
    points = grid(sweep.space, sweep.seed)
    if points is None:
        return TPESampler(seed=seed)
    return PartialFixedSampler(points[done], RandomSampler(seed)) if done < len(points) else None


def grid(space: Space, seed: int) -> list[Values] | None:
    """Every point once, in the seed's order, where all is choices; None for ranges, and for more than 10,000 points.

    Optuna's own `GridSampler` takes the point of a trial that was cut short as tried.
    """
    choices = [what.values for what in space.values() if isinstance(what, Choices)]
    if len(choices) < len(space) or math.prod(map(len, choices)) > _LARGEST_GRID:
        return None
    points = [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]
    random.Random(seed).shuffle(points)
    return points


def _keep_best_checkpoint(output: Path, study: optuna.Study) -> None:
    """A sweep's checkpoints but the best's are deleted: a trial's weights are of no further use."""
    best = best_trial(study)
    for trial in finished(study):
        if best is None or trial.number != best.number:
            shutil.rmtree(trial_path(output, trial.number) / CHECKPOINTS, ignore_errors=True)
