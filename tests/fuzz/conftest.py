"""Fixtures of every fuzz test that counts by `cases.outcome`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.cases import counted


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    """What was tried and refused, printed after each module."""
    with counted():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A directory of the module's own."""
    return tmp_path_factory.mktemp("fuzz")
