"""The search space of a sweep: fields of a run's config, each with choices or a range."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from skipwise.common.errors import UserError
from skipwise.common.files import read_yaml
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import flatten, from_mapping, nest

Values = dict[str, Any]
"""Field paths such as `loss.alpha`, and a value for each."""
_FIXED = ("run_dir", "data.path", "train.validation_sessions", "evaluate.")
"""Fields, and a section, that must be equal in all trials: what they are measured on and how."""


@dataclass(frozen=True)
class Choices:
    """One of a few values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, field: str) -> Any:
        """Optuna's choice for this trial."""
        return trial.suggest_categorical(field, self.values)


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, by logarithm or in steps where asked; whole where the field is."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Trial, field: str) -> Any:
        """Optuna's choice for this trial."""
        if isinstance(self.low, int):
            return trial.suggest_int(field, self.low, int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(field, self.low, self.high, step=self.step, log=self.log)


Space = dict[str, Choices | Range]
"""What is tried of each field, by its dotted path."""

_PAPER: Space = {
    "loss.alpha": Choices((0.25, 0.5, 0.75, 1.0)),
    "loss.beta": Choices((0.25, 0.5, 0.75, 1.0)),
    "optimizer.learning_rate": Choices((0.0001, 0.0005, 0.001, 0.005)),
}
SPACES: dict[str, Space] = {
    # The grid of Seshadri & Knees, arXiv 2309.11623.
    "paper": _PAPER,
    "extended": _PAPER
    | {
        "loss.temperature": Choices((0.1, 0.25, 0.5, 1.0, 2.0)),
        "encoder.dropout": Range(0.0, 0.6, step=0.1),
        "table.learning_rate": Range(0.01, 0.2, log=True),
        "data.negatives": Choices((100, 1000, 4000)),
    },
}


def read_space(name: str, config: RunConfig) -> Space:
    """A space by name or from a YAML file; raises `UserError` for a field or a value that `config` cannot take."""
    if name in SPACES:
        space = SPACES[name]
    elif name.endswith((".yaml", ".yml")):
        space = {field: _read(str(field), text, config, name) for field, text in read_yaml(Path(name)).items()}
    else:
        raise UserError(f"there is no space '{name}': expected --space {', '.join(SPACES)} or a .yaml file")
    if not space:
        raise UserError(f"{name} names no field: expected lines such as 'loss.alpha: [0.25, 0.5]'")
    for field, values in space.items():
        for value in values.values if isinstance(values, Choices) else (values.low, values.high):
            changed(config, {field: value}, name)
    return space


def changed(config: RunConfig, values: Values, source: str) -> RunConfig:
    """`config` with these fields set; raises `UserError` naming `source` and the field."""
    return from_mapping(config, nest(values), source)


def _read(field: str, text: Any, config: RunConfig, source: str) -> Choices | Range:
    if field.startswith(_FIXED):
        raise UserError(
            f"{source}: '{field}' cannot be searched: it must be the same in all trials, set it by --config"
        )

    def converted(value: Any) -> Any:
        """As the config holds it: a field's own type decides, and YAML reads 1e-3 as text."""
        return flatten(changed(config, {field: value}, source))[field]

    if isinstance(text, list) and text:
        return Choices(tuple(dict.fromkeys(map(converted, text))))
    if isinstance(text, dict) and {"low", "high"} <= text.keys() <= {"low", "high", "log", "step"}:
        low, high, log, step = converted(text["low"]), converted(text["high"]), text.get("log", False), text.get("step")
        kinds = (int,) if type(low) is int else (int, float)
        numbers = all(type(bound) in (int, float) and math.isfinite(bound) for bound in (low, high))
        steps = step is None or (type(step) in kinds and 0 < step < math.inf and not log)
        if numbers and low < high and isinstance(log, bool) and steps and not (log and low <= 0):
            return Range(low, high, log, step)
    raise UserError(
        f"{source}: '{field}' must be a list of choices or {{low, high, log, step}} with low below high, log above "
        "zero and without a step, a whole step where the field is whole"
    )
