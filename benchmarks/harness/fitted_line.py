"""A straight line through measured points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x."""

    intercept: float
    slope: float

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float], relative: bool = False) -> "Line":
        """The line of least squares; level through a single point. `relative`: squares of shares of `y`."""
        if len(x) < 2:
            return cls(float(np.mean(y)), 0.0)
        slope, intercept = np.polyfit(x, y, 1, w=1 / np.asarray(y) if relative else None)
        return cls(float(intercept), float(slope))

    def at(self, x: float) -> float:
        """Its y at this place."""
        return self.intercept + self.slope * x

    def farthest(self, x: Sequence[float], y: Sequence[float]) -> float:
        """The greatest distance of a point from the line, as a share of the line's y."""
        return max(abs(value / self.at(place) - 1) for place, value in zip(x, y, strict=True))
