"""How many batches the loader's threads build before they are asked for."""

import time
from types import SimpleNamespace

import pytest

from skipwise.datapipes.loader import StepLoader


class Counted:
    """Stands for a `StepDataset`: a batch is its step, and each that is built is counted."""

    def __init__(self, workers: int, prefetch: int, steps: int):
        self.config, self.steps = SimpleNamespace(workers=workers, prefetch=prefetch), steps
        self.built: list[int] = []

    def __getitem__(self, index: tuple[int, int]) -> int:
        self.built.append(index[1])
        return index[1]


@pytest.mark.parametrize(
    ("workers", "prefetch", "steps", "ahead"), [(1, 4, 20, 5), (3, 2, 20, 7), (2, 4, 5, 5), (0, 4, 20, 1)]
)
def test_each_worker_builds_prefetch_batches_ahead(workers: int, prefetch: int, steps: int, ahead: int):
    dataset = Counted(workers, prefetch, steps)
    batches = StepLoader(dataset).epoch(0)
    assert next(batches) == 0
    until = time.monotonic() + 10
    while len(dataset.built) < ahead and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(dataset.built) == list(range(ahead))
    assert list(batches) == list(range(1, steps))
