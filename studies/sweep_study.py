"""A sweep's store of trials: what is searched, Optuna's study on disk, and what stands in it."""

import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from skipwise.common.errors import UserError
from skipwise.common.files import require_regular_file
from skipwise.studies.search_space import Space
from skipwise.training.config import RunConfig

STUDY = "study.jsonl"
REFUSED = "refused"
"""The attribute of a failed trial that holds the reason why its settings were refused."""
_LARGEST = 1 << 30
_RECORD = b'{"op_code":'
"""How a line of Optuna's journal begins."""


@dataclass(frozen=True)
class Sweep:
    """What is searched, and where it is kept."""

    output: Path
    recipe: str
    plain: RunConfig
    """The recipe itself, which `best.yaml` is read on top of."""
    config: RunConfig
    """What every trial starts from: the recipe with the changes of `--config`."""
    space: Space
    seed: int
    identity: dict[str, str]
    """Digests of the options; a stored study goes on only where they are equal."""

    def trial_path(self, number: int) -> Path:
        """The run directory of a trial."""
        return self.output / "trials" / f"{number:04}"


def open_study(sweep: Sweep) -> optuna.Study:
    """Opens or creates the study under `output`; refuses another sweep's. Interrupted trials are tried again.

    No other process may use it meanwhile.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    file = sweep.output / STUDY
    try:
        sweep.output.mkdir(parents=True, exist_ok=True)
        _clean_up(file)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file))),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
            # Stops a trial whose validation is below the median of the earlier trials at the same epoch.
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
        )
    except OSError as error:
        raise UserError(f"cannot write to {sweep.output} ({error.strerror}): choose another --output") from error
    except UserError:
        raise
    except Exception as error:  # Optuna may raise anything for lines that it has not written
        raise UserError(f"{file} is not a study that sweep wrote: choose another --output") from error
    stored = study.user_attrs
    for name, value in sweep.identity.items():
        if name not in stored:
            study.set_user_attr(name, value)
        elif stored[name] != value:
            raise UserError(f"{sweep.output} was swept with another {name}: choose another --output")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        shutil.rmtree(sweep.trial_path(trial.number), ignore_errors=True)
    return study


def _clean_up(file: Path) -> None:
    """Removes what a killed process left of a study: Optuna's lock, which it would wait for, and a line cut short.

    A system that stopped may have left zeros in its place.
    """
    for left_over in file.parent.glob(f"{STUDY}.lock*"):
        left_over.unlink()
    if file.exists():
        require_regular_file(file)
        if (size := file.stat().st_size) > _LARGEST:
            raise UserError(f"{file} has {size:,} bytes, expected at most {_LARGEST:,}: choose another --output")
        content = file.read_bytes()
        if content.startswith(_RECORD) or _RECORD.startswith(content):
            end = content.rfind(b"\n") + 1
            last = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
            os.truncate(file, end if _is_whole(content[last:end]) else last)


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line or "{}"), dict)
    except (ValueError, RecursionError):
        return False


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that came to an end: complete, pruned, or refused by the config or for a loss that was not finite."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in ended if trial.state != TrialState.FAIL or REFUSED in trial.user_attrs]


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the best validation, the first of equals."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: trial.values[0], default=None)
