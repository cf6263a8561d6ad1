"""Names of options and values of older versions, and what they are called now."""

from typing import Any

_OLD_OPTIONS = {
    "train.validation-sessions": "is called --selection.sessions now",
    "evaluate.filter-history": "is gone: by `served` the tracks of the session so far are left out, by `full` not",
}
_OLD_VALUES = {("protocol", "uniform"): "paper", ("exclude", "both"): "session", ("exclude", "heard"): "kept"}
"""By the last part of an option's name."""


def outdated(option: str, value: Any = None) -> str:
    """What an option, or its value, of an older version is called now, as a sentence; empty for any other.

    `option`: its path, such as `selection.protocol`.
    """
    name = option.replace("_", "-")
    found = _OLD_OPTIONS.get(name.replace(".no-", "."))
    if found:
        return f"--{name} {found}"
    new = _OLD_VALUES.get((name.rpartition(".")[2], value)) if isinstance(value, str) else None
    return f"--{name} {value} is called {new} now" if new else ""
