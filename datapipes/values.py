"""What a value of any option may be, from a command line or a file, and how one is shown in a sentence."""

import math
import os
import reprlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

_WORD = 1 << 63
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 60, 60


def shown(value: Any) -> str:
    """`value` as Python writes it, on one line and cut short, however large or deep it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a huge number"


def fault(value: Any) -> str:
    """What is wrong with `value`, whatever its option means: "must be ..."; empty where nothing is."""
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
    """Raises `ValueError` that names the flag of the first value in `config` that has a `fault`."""
    for name in (field.name for field in fields(config)):
        value, place = getattr(config, name), f"{section}{name.replace('_', '-')}"
        if is_dataclass(value):
            check_values(value, f"{place}.")
        for item in value if isinstance(value, tuple) else (value,):
            if trouble := fault(item):
                raise ValueError(f"--{place} {trouble}")
