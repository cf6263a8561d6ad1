"""Progress on stderr: a bar on a terminal, one line for each stage elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_hidden = False


def hide_stages() -> None:
    """Shows no stages of this process: another one shows those of several together."""
    global _hidden
    _hidden = True


@contextmanager
def stage(name: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Announces a stage of `total` units and yields the function that advances it by a number of units."""
    if _hidden:
        yield lambda done: None
        return
    if not sys.stderr.isatty():
        print(f"{name}: {total:,} {unit}", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    with tqdm(total=total, desc=name, unit=f" {unit}", unit_scale=True, file=sys.stderr) as bar:
        yield bar.update


class Farthest:
    """Advances by what lies beyond the farthest place so far, where the same is read again."""

    def __init__(self, advance: Callable[[int], object]):
        self._advance, self._at, self._farthest = advance, 0, 0

    def __call__(self, size: int) -> None:
        """Goes on by `size` units."""
        self._at += size
        if self._at > self._farthest:
            self._advance(self._at - self._farthest)
            self._farthest = self._at

    def restart(self) -> None:
        """Begins again."""
        self._at = 0


def note(text: str) -> None:
    """Prints one line on stderr."""
    print(text, file=sys.stderr, flush=True)
