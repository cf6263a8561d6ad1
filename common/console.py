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


def note(text: str) -> None:
    """Prints one line on stderr."""
    print(text, file=sys.stderr, flush=True)
