"""Fixtures for tests that read and write URLs."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from skipwise.common import stores
from tests.support.object_store import ObjectStore, running

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """The server, started once."""
    with running() as store:
        yield store


@pytest.fixture
def bucket(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket, a cache of its own, and no waiting between two tries."""
    name = f"bucket-{next(_NUMBERS)}"
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{object_store.port}",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SKIPWISE_CACHE": str(tmp_path / "cache"),
    }
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(stores, "FIRST_WAIT_S", 0.01)
    stores._filesystem.cache_clear()
    object_store.reset()
    object_store.files.create_dir(name)
    object_store.reset()
    return f"s3://{name}"
