"""The search space of a sweep: fields of a run's config, each with an Optuna distribution of its values."""

import math
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from skipwise.common.errors import UserError
from skipwise.common.files import read_yaml
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import flatten, from_mapping, nest

_FIXED = ("run_dir", "data.path", "selection.", "evaluate.")
"""Fields and sections that must be equal in all trials: what they are measured on and how."""

Space = dict[str, BaseDistribution]
"""What is tried of each field, by its dotted path such as `loss.alpha`."""

_PAPER: dict[str, Any] = {
    "loss.alpha": [0.25, 0.5, 0.75, 1.0],
    "loss.beta": [0.25, 0.5, 0.75, 1.0],
    "optimizer.learning_rate": [0.0001, 0.0005, 0.001, 0.005],
}
_SPACES: dict[str, dict[str, Any]] = {
    # The grid of Seshadri & Knees, arXiv 2309.11623.
    "paper": _PAPER,
    "extended": _PAPER
    | {
        "loss.temperature": [0.1, 0.25, 0.5, 1.0, 2.0],
        "encoder.dropout": {"low": 0.0, "high": 0.6, "step": 0.1},
        "table.learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "data.negatives": [100, 1000, 4000],
    },
}


def read_space(name: str, config: RunConfig) -> Space:
    """A space by name or from a YAML file; raises `UserError` for a field or a value that `config` cannot take."""
    if name not in _SPACES and not name.endswith((".yaml", ".yml")):
        raise UserError(f"there is no space '{name}': expected --space {', '.join(_SPACES)} or a .yaml file")
    fields = _SPACES.get(name) or read_yaml(Path(name))
    if not fields:
        raise UserError(f"{name} names no field: expected lines such as 'loss.alpha: [0.25, 0.5]'")
    return {field: _read(str(field), values, config, name) for field, values in fields.items()}


def _read(field: str, values: Any, config: RunConfig, source: str) -> BaseDistribution:
    if field.startswith(_FIXED):
        raise UserError(
            f"{source}: '{field}' cannot be searched: it must be the same in all trials, set it by --config"
        )

    def converted(value: Any) -> Any:
        """As the config holds it: a field's own type decides, and YAML reads 1e-3 as text."""
        return flatten(from_mapping(config, nest({field: value}), source))[field]

    if isinstance(values, list) and values:
        return CategoricalDistribution(tuple(dict.fromkeys(map(converted, values))))
    if isinstance(values, dict) and {"low", "high"} <= values.keys() <= {"low", "high", "log", "step"}:
        low, high, log, step = *map(converted, (values["low"], values["high"])), values.get("log"), values.get("step")
        kind = {int: IntDistribution, float: FloatDistribution}.get(type(low))
        steps = step is None or (type(step) in (int, type(low)) and step < math.inf)
        if kind and low < high and log in (None, True, False) and steps:
            try:
                return kind(**values | {"low": low, "high": high})
            except (ValueError, OverflowError):
                pass  # what the sentence below says too
    raise UserError(
        f"{source}: '{field}' must be a list of choices or {{low, high, log, step}} with low below high, log above "
        "zero and without a step, a whole step where the field is whole"
    )
