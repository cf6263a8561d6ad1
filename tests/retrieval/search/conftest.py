"""One encoder program, and an export by hand with an index of each kind, made once for this folder's tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.retrieval.search.exports import DIM, MOST, SumEncoder, norms_matter, write_by_hand
from tests.support.exports import program

ROWS, QUERIES = 1500, 40


@pytest.fixture(scope="session")
def encoder() -> bytes:
    return program(DIM, SumEncoder(), MOST)


@pytest.fixture
def by_hand(encoder: bytes, tmp_path: Path) -> Callable[..., Path]:
    """`by_hand(table, queries)` writes an export; without them, one of 1,500 tracks whose norms matter."""
    made = iter(range(1000))

    def write(table_RD: np.ndarray | None = None, queries_SD: np.ndarray | None = None, **more) -> Path:
        if table_RD is None:
            table_RD, queries_SD = norms_matter(ROWS, QUERIES)
        return write_by_hand(tmp_path / f"export-{next(made)}", table_RD, queries_SD, encoder, **more)

    return write
