"""A config's fields as a mapping: read from a YAML file's sections, or laid out as dotted paths (`loss.alpha`)."""

import json
from dataclasses import asdict, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from skipwise.common.errors import UserError, shown
from skipwise.common.options import problem
from skipwise.datapipes.renamed_options import outdated

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def flatten(config: Any, section: str = "") -> dict[str, Any]:
    """Every field of a config and of its sections, by its dotted path."""
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(config)):
        value, path = getattr(config, name), f"{section}{name}"
        found |= flatten(value, f"{path}.") if is_dataclass(value) else {path: value}
    return found


def as_json(config: "DataclassInstance") -> dict[str, Any]:
    """The config's fields as they read back from JSON, which has lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return found


def nest(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: dotted paths as nested sections, as a YAML config has them."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *outer, name = path.split(".")
        section = found
        for part in outer:
            section = section.setdefault(part, {})
        section[name] = value
    return found


def from_mapping(default: Config, mapping: dict[str, Any], source: str, section: str = "") -> Config:
    """`default` with the fields that `mapping` names replaced; raises `UserError` naming `source` and the field."""
    hints = get_type_hints(type(default))
    changes = {}
    for name, value in mapping.items():
        place = f"{section}{name}"
        if said := outdated(place, value):
            raise UserError(f"{source}: {said}")
        if name not in hints:
            raise UserError(f"{source}: there is no field {shown(place)}; expected one of {', '.join(hints)}")
        current = getattr(default, name)
        if is_dataclass(current) and not isinstance(current, type):
            if not isinstance(value, dict):
                raise UserError(f"{source}: '{place}' must be a section of fields, not {shown(value)}")
            changes[name] = from_mapping(current, value, source, f"{place}.")
        else:
            changes[name] = _checked(hints[name], value, f"{source}: '{place}'")
    try:
        return replace(default, **changes)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def _checked(kind: Any, value: Any, place: str) -> Any:
    """`value` as a field of type `kind` takes it; the sentence of a refusal starts with `place`."""
    if trouble := problem(value):
        raise UserError(f"{place} {trouble}")
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{place} must be a list, not {shown(value)}")
        return tuple(_checked(get_args(kind)[0], one, place) for one in value)
    choices = get_args(kind)
    if choices:
        # True is 1 and 1.0 is 1 for Python, and neither is what was asked.
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise UserError(f"{place} must be one of {', '.join(map(str, choices))}, not {shown(value)}")
        return value
    if kind is float and type(value) in (int, float, str):
        try:
            number = float(value)  # YAML reads 1e-3 as text
        except ValueError:
            number = None
        if number is not None and not (trouble := problem(number)):
            return number
        if trouble:
            raise UserError(f"{place} {trouble}")
    elif type(value) is kind:
        return value
    raise UserError(f"{place} must be of type {kind.__name__}, not {shown(value)}")
