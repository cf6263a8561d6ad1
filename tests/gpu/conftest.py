"""What the tests of a GPU share. `SKIPWISE_GPU_TESTS=cpu pytest -m gpu` tries them without one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skipwise.common.distributed import process_group
from tests.conftest import random_sessions, write_dataset
from tests.support.contexts import add_contexts, words
from tests.support.without_card import process_without_card

TRACKS = 203


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """The product's process group, of this process alone."""
    with process_group():
        yield


@pytest.fixture(scope="session")
def begin_on_cpu() -> Iterator[Callable[..., Any]]:
    """`begin_on_cpu(function, *arguments)()`: what it returns in a process that sees no card, which begins at once."""
    with process_without_card() as begin:
        yield begin


@pytest.fixture(scope="session")
def on_cpu(begin_on_cpu: Callable[..., Any]) -> Callable[..., Any]:
    """`on_cpu(function, *arguments)`: what it returns there."""
    return lambda *call: begin_on_cpu(*call)()


@pytest.fixture(scope="session")
def sessions_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 120 sessions over `TRACKS` tracks, with pauses."""
    data = write_dataset(tmp_path_factory.mktemp("gpu") / "data", random_sessions(120, TRACKS), TRACKS)
    add_contexts(data, {"pause": words("1", "8", "12", None)})
    return data
