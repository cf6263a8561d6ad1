"""Stages that every rank passes or none: a rank that failed alone would leave the others waiting for it."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from datapipes.aside import aside
from datapipes.errors import UserError
from training.distributed import broadcast_object, rank, ranks

Result = TypeVar("Result")


def together(function: Callable[[], Result]) -> Result:
    """`function()` on every rank; where it fails on one, all raise the same `UserError`.

    A bug keeps its own traceback on the rank that has it. `function` must not communicate: the ranks meet only once
    it has ended everywhere.
    """
    result, bug, sentence = None, None, None
    try:
        result = function()
    except UserError as error:
        sentence = str(error)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        sentence = f"the export cannot be written ({reason}): mend that or choose another --output"
    except Exception as error:
        bug, sentence = error, f"rank {rank()} failed ({type(error).__name__}: {error})"
    sentences = [words for words in gather_objects(sentence) if words]
    if bug:
        raise bug
    if sentences:
        raise UserError(sentences[0])
    return result


def gather_objects(value: Any) -> list[Any]:
    """Every rank's `value`, in rank order; for small things."""
    values = [None] * ranks()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def aside_together(output: Path, overwrite: bool, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """`datapipes.aside.aside` for all ranks: rank 0 makes the scratch directory, and publishes or removes it.

    The block must fail on every rank or on none (`together`). SIGTERM, by which torchrun ends the others when a rank
    has died, is a failure like any other.
    """

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with ExitStack() as publishing:

            def enter() -> Path | None:
                return publishing.enter_context(aside(output, overwrite, replaceable)) if rank() == 0 else None

            scratch = broadcast_object(together(enter))
            try:
                yield scratch
            finally:
                # torchrun may signal while the directory is renamed or removed: that must be let finish.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            together(publishing.close)
    finally:
        signal.signal(signal.SIGTERM, before)
