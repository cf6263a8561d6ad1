"""What a sweep tries: fields of a run's config, each with choices or a range."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from datapipes.errors import UserError
from training.config import RunConfig, from_mapping
from training.run import read_yaml

Values = dict[str, Any]
"""Field paths such as `loss.alpha`, and a value for each."""


@dataclass(frozen=True)
class Choices:
    """One of a few values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, field: str) -> Any:
        return trial.suggest_categorical(field, self.values)

    def examples(self) -> tuple[Any, ...]:
        return self.values


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, by logarithm or in steps where asked; whole where both bounds are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Trial, field: str) -> Any:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(field, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(field, self.low, self.high, step=self.step, log=self.log)

    def examples(self) -> tuple[Any, ...]:
        return self.low, self.high


Space = dict[str, Choices | Range]

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
        space = {field: _read(field, text, name) for field, text in read_yaml(Path(name)).items()}
    else:
        raise UserError(f"there is no space '{name}': expected --space {', '.join(SPACES)} or a .yaml file")
    if not space:
        raise UserError(f"{name} names no field: expected lines such as 'loss.alpha: [0.25, 0.5]'")
    for field, what in space.items():
        for value in what.examples():
            changed(config, {field: value}, name)
    return space


def changed(config: RunConfig, values: Values, source: str) -> RunConfig:
    """`config` with these fields set; raises `UserError` naming `source` and the field."""
    return from_mapping(config, sections(values), source)


def sections(values: Values) -> dict[str, Any]:
    """Field paths as nested sections, as a `--config` file has them."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *outer, field = path.split(".")
        place = found
        for name in outer:
            place = place.setdefault(name, {})
        place[field] = value
    return found


def _read(field: str, text: Any, source: str) -> Choices | Range:
    if isinstance(text, list) and text:
        return Choices(tuple(text))
    if isinstance(text, dict) and {"low", "high"} <= text.keys() <= {"low", "high", "log", "step"}:
        bounds = text["low"], text["high"], text.get("step") or 0
        numbers = all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds)
        log = text.get("log", False)
        if numbers and bounds[0] < bounds[1] and bounds[2] >= 0 and not (log and (bounds[0] <= 0 or bounds[2])):
            return Range(text["low"], text["high"], bool(log), text.get("step"))
    raise UserError(
        f"{source}: '{field}' must be a list of choices or {{low, high, log, step}} with low below high, log above "
        "zero and without a step"
    )
