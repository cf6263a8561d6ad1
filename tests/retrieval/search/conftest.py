"""An encoder whose queries are exact, and exports by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.retrieval.search.exports import SumEncoder, norms_matter, write_by_hand
from tests.support.exports import stands_for_the_encoder

ROWS, QUERIES = 1500, 40


@pytest.fixture(scope="module")
def sum_encoder() -> Iterator[None]:
    with stands_for_the_encoder(SumEncoder()):
        yield


@pytest.fixture
def by_hand(sum_encoder: None, tmp_path: Path) -> Callable[..., Path]:
    """`by_hand(table, queries)` writes an export; without them, one of 1,500 tracks whose norms matter."""
    made = iter(range(1000))

    def write(table_RD: np.ndarray | None = None, queries_SD: np.ndarray | None = None, **more) -> Path:
        if table_RD is None:
            table_RD, queries_SD = norms_matter(ROWS, QUERIES)
        return write_by_hand(tmp_path / f"export-{next(made)}", table_RD, queries_SD, **more)

    return write
