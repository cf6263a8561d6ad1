"""Limits on the value of any option, from a command line or a file."""

import math
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

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
    """Raises `ValueError` that names the flag of the first value in `config` that has a `problem`."""
    for name in (field.name for field in fields(config)):
        value, place = getattr(config, name), f"{section}{name.replace('_', '-')}"
        if is_dataclass(value):
            check_values(value, f"{place}.")
        for item in value if isinstance(value, tuple) else (value,):
            if wrong := problem(item):
                raise ValueError(f"--{place} {wrong}")
