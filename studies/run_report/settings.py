"""A run's config field by field, beside its recipe's and another run's."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from skipwise.studies.run_report.runs import ReportedRun


@dataclass(frozen=True)
class Setting:
    """One field."""

    path: str
    values: tuple[Any, ...]
    """One a run."""
    defaults: tuple[Any, ...]
    """What each run's recipe has."""
    changed: bool
    """A run has another value than its recipe."""
    differs: bool
    """The runs have different ones."""


def settings_of(runs: list[ReportedRun]) -> list[Setting]:
    """Every field but where the run lies. A run without a known recipe counts as unchanged."""
    values = [_flat(run.directory.config) for run in runs]
    defaults = [_flat(run.default) if run.default else own for run, own in zip(runs, values, strict=True)]
    found = []
    for path in values[0]:
        mine, plain = tuple(one[path] for one in values), tuple(one[path] for one in defaults)
        found.append(Setting(path, mine, plain, mine != plain, any(value != mine[0] for value in mine)))
    return found


def _flat(config: Any, section: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(config)):
        value, path = getattr(config, name), f"{section}{name}"
        if is_dataclass(value):
            found |= _flat(value, f"{path}.")
        elif path != "run_dir":
            found[path] = value
    return found
