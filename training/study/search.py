"""The search itself: Optuna asks, ranks train, validation answers. No test target is ever looked at.

What a trial tries follows from the seed, its number and the trials before it: an interrupted sweep goes on as it would
have. Rank 0 alone talks to Optuna.
"""

import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from datapipes.errors import UserError
from training.checkpoint import BEST
from training.config import RunConfig
from training.distributed import barrier, broadcast_object, logger
from training.loop import train
from training.study.space import Choices, Space, changed

REFUSED = "refused"
_PRUNE_AFTER_TRIALS, _PRUNE_AFTER_EPOCHS = 5, 3


@dataclass(frozen=True)
class Sweep:
    """What is searched, and where it is kept."""

    output: Path
    recipe: str
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
    sweep.output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(sweep.output / "study.jsonl"))),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
        # A trial whose validation is below the median of those before at the same epoch is not worth its time.
        pruner=optuna.pruners.MedianPruner(_PRUNE_AFTER_TRIALS, _PRUNE_AFTER_EPOCHS),
    )
    kept = study.user_attrs
    for name, value in sweep.identity.items():
        if name not in kept:
            study.set_user_attr(name, value)
        elif kept[name] != value:
            raise UserError(f"{sweep.output} was swept with another {name}: choose another --output")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
        shutil.rmtree(_aside(trial_path(sweep.output, trial.number)), ignore_errors=True)
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were run to an end: complete, pruned, or refused by the config or by a loss that was not finite."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in done if trial.state != TrialState.FAIL or REFUSED in trial.user_attrs]


def run_trial(sweep: Sweep, study: optuna.Study | None) -> bool:
    """Asks for, runs and tells one trial on all ranks (`study`: rank 0's alone); False where nothing is left to try."""
    trial, asked = None, None
    if study is not None:
        study.sampler = _sampler(sweep, len(study.get_trials(deepcopy=False)))
        if not (isinstance(study.sampler, GridSampler) and study.sampler.is_exhausted(study)):
            trial = study.ask()
            asked = trial.number, {field: what.suggest(trial, field) for field, what in sweep.space.items()}
            # A grid that is exhausted would stop the study when told, which Optuna allows inside `optimize` alone.
            study.sampler = RandomSampler(seed=0)
    asked = broadcast_object(asked)
    if asked is None:
        return False
    number, values = asked
    path = trial_path(sweep.output, number)
    watch = _Watch(trial)
    try:
        config = replace(changed(sweep.config, values, f"trial {number}"), run_dir=str(_aside(path)))
        train(config, sweep.recipe, watch, test=False)
    except UserError as error:
        logger.info(f"trial {number} is refused: {error}")
        if study is not None:
            trial.set_user_attr(REFUSED, str(error))
            study.tell(trial, state=TrialState.FAIL)
            shutil.rmtree(_aside(path), ignore_errors=True)
        barrier()
        return True
    if study is not None:
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

    def __init__(self, trial: Trial | None):
        self._trial = trial
        self.best: dict[str, Any] = {"hr@10": -1.0}
        self.pruned = False

    def __call__(self, epoch: int, metrics: dict[str, float | int]) -> bool:
        if metrics["hr@10"] > self.best["hr@10"]:
            names = ("hr@10", "hr@1", "ndcg@10", "sessions")
            self.best = {name: metrics[name] for name in names} | {"best_epoch": epoch}
        self.best["epochs"] = epoch
        if self._trial is not None:
            self._trial.report(metrics["hr@10"], epoch)
            self.pruned = self._trial.should_prune()
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


def _sampler(sweep: Sweep, number: int) -> BaseSampler:
    """A grid where all is choices, TPE otherwise; made anew for each trial, so that a restart changes nothing."""
    if all(isinstance(what, Choices) for what in sweep.space.values()):
        grid = {field: list(what.values) for field, what in sweep.space.items()}
        return GridSampler(grid, seed=sweep.seed)  # which numbers the grid's points: the same for all trials
    return TPESampler(seed=sweep.seed * 1_000_003 + number)


def _keep_best_checkpoint(output: Path, study: optuna.Study) -> None:
    """A sweep's checkpoints but the best's are deleted: a trial's weights are of no further use."""
    best = best_trial(study)
    for trial in finished(study):
        if best is None or trial.number != best.number:
            shutil.rmtree(trial_path(output, trial.number) / BEST, ignore_errors=True)
