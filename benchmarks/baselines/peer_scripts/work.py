"""What every peer's script needs: the work to do, its sessions as padded batches, and the clock.

Runs in the peer's own environment, which has torch and NumPy and nothing of this project.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor

BATCHES = 4
"""Batches made before the clock starts; the steps go through them in turn."""


@dataclass(frozen=True)
class Work:
    """One process's work, as `benchmarks.peers` writes it down."""

    sessions: str
    """A .npz with `tracks` and `offsets`: session i is `tracks[offsets[i] : offsets[i + 1]]`."""
    tracks: int
    dim: int
    blocks: int
    heads: int
    hidden: int
    dropout: float
    length: int
    """Tracks of the longest session; all but its last are read."""
    batch: int
    negatives: str
    """`one` a position, `shared` by the batch, `per-session`, or `per-position`."""
    count: int
    """How many negatives."""
    steps: int
    warmup: int
    threads: int
    """0 leaves torch's choice."""


def read_work() -> Work:
    """The work in the JSON file that the command line names."""
    with open(sys.argv[1], encoding="utf-8") as file:
        work = Work(**json.load(file))
    if work.threads:
        torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    return work


def padded(work: Work) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [batch, length - 1], int64, padded on the left with -1."""
    sessions = np.load(work.sessions)
    tracks, offsets = sessions["tracks"], sessions["offsets"]
    for first in range(0, BATCHES * work.batch, work.batch):
        inputs_BT = np.full((work.batch, work.length - 1), -1, dtype=np.int64)
        targets_BT = inputs_BT.copy()
        for place in range(work.batch):
            number = (first + place) % (len(offsets) - 1)
            session = tracks[offsets[number] : offsets[number + 1]]
            inputs_BT[place, -len(session) + 1 :] = session[:-1]
            targets_BT[place, -len(session) + 1 :] = session[1:]
        yield torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


def report(
    work: Work,
    batches: list[dict[str, Any]],
    loss_of: Callable[[dict[str, Any]], Tensor],
    optimizer: torch.optim.Optimizer,
    package: str,
) -> None:
    """Trains, and prints each step's seconds as JSON."""
    seconds = []
    for number, batch in zip(range(work.warmup + work.steps), cycle(batches), strict=False):
        began = time.perf_counter()
        loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number >= work.warmup:
            seconds.append(time.perf_counter() - began)
    assert torch.isfinite(loss), f"the loss is {float(loss)}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = {name: version(name) for name in (package, "torch")}
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "versions": versions}))
