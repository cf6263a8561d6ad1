"""Limits on the value of any option, from a command line or a file."""

import math
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from skipwise.common.errors import shown

_WORD = 1 << 63


def problem(value: Any) -> str:
    """Says what no option may hold: "must be a finite number, not nan"; empty for a value that is fine."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    if isinstance(value, int) and not -_WORD <= value < _WORD:
        return f"must be a whole number of 64 bits, not {shown(value)}"
    if isinstance(value, (str, Path)):
        try:
            if b"\0" in os.fsencode(value):
                return "must not hold a zero byte"
        except UnicodeEncodeError:
            return f"must be text that a file name can hold, not {shown(value)}"
    return ""


def check_values(config: Any, section: str = "") -> None:
    """Raises `ValueError` that names the flag of the first value that has a `problem`, or is not among its choices."""
    hints = get_type_hints(type(config))
    for name in (field.name for field in fields(config)):
        value, place = getattr(config, name), f"{section}{name.replace('_', '-')}"
        if is_dataclass(value):
            check_values(value, f"{place}.")
        choices = _choices(hints[name])
        for item in value if isinstance(value, tuple) else (value,):
            if wrong := problem(item):
                raise ValueError(f"--{place} {wrong}")
            left_out = item is None and NoneType in get_args(hints[name])
            if choices and item not in choices and not left_out:
                raise ValueError(f"--{place} must be one of {', '.join(map(str, choices))}, not {shown(item)}")


def _choices(hint: Any) -> tuple[Any, ...]:
    """What a `Literal` allows, also in a tuple or beside None; empty for other types."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    inner = [one for one in get_args(hint) if one not in (Ellipsis, NoneType)]
    return _choices(inner[0]) if len(inner) == 1 else ()
