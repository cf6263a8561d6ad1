"""One check that the checkpoint's index, the position and the export's manifest use until they are models."""

from typing import Any


def whole(value: Any, least: int = 0) -> bool:
    """Whether a value is a whole number, of at least `least`, that fits in int64."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63
