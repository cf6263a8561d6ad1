"""Plays whose popularity falls as Zipf's law with exponent 1."""

import numpy as np


class Zipf:
    """Track rows drawn by popularity; popular ones lie anywhere, so no rank has more to do than another."""

    def __init__(self, tracks: int, random: np.random.Generator):
        self._row_of_place = random.permutation(tracks)
        self._share = np.cumsum(1 / np.arange(1, tracks + 1))

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """int64 [count]."""
        return self._row_of_place[np.searchsorted(self._share, random.random(count) * self._share[-1])]
