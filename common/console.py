"""Progress on stderr: a bar on a terminal, one line for each stage elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def stage(name: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Announces a stage of `total` units and yields the function that advances it by a number of units."""
    if not sys.stderr.isatty():
        print(f"{name}: {total:,} {unit}", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    with tqdm(total=total, desc=name, unit=f" {unit}", unit_scale=True, file=sys.stderr) as bar:
        yield bar.update


def note(text: str) -> None:
    """Prints one line on stderr."""
    print(text, file=sys.stderr, flush=True)
