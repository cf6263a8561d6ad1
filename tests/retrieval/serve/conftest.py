"""Small exports made by hand, as export writes them, and a way to ask an application without a network."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.search.stored import open_search
from skipwise.retrieval.serve.app import make_app
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.service import Service
from tests.support.exports import write_made

TRACKS, DIM, MOST = 300, 8, 5
NAMES = [f"t_{row:03}" for row in range(TRACKS - 3)] + ["a/b c", "ü/ü", "t_000/x"]


@pytest.fixture(scope="session")
def write_export() -> Callable[..., Path]:
    """`write_export(folder, seed)` writes an export of random vectors; other arguments go into its manifest."""

    def write(folder: Path, seed: int = 0, names: dict[str, list] | None = None, **changes: Any) -> Path:
        vectors = np.random.default_rng(seed).standard_normal((TRACKS, DIM)).astype(np.float32)
        fields = {"vocabulary_hash": f"{seed:064}", "config": config_of("track")} | changes
        return write_made(folder, NAMES, vectors, longest=MOST, queries_SD=vectors[:20], fields=fields, names=names)

    return write


def config_of(context: str) -> dict[str, Any]:
    """What serving and the page read of a run's config."""
    data = {"skip_up_to": 2, "skipped_tracks": "read"}
    return {"data": data, "loss": {"context": context, "alpha": 0.25, "beta": 1.0}}


@pytest.fixture(scope="session")
def export(write_export: Callable[..., Path], tmp_path_factory) -> Path:
    """An export that no test changes."""
    return write_export(tmp_path_factory.mktemp("exports") / "main")


@pytest.fixture(scope="session")
def other(write_export: Callable[..., Path], tmp_path_factory) -> Path:
    """One of other vectors, trained without skips."""
    return write_export(tmp_path_factory.mktemp("exports") / "other", seed=1, config=config_of("none"))


class Oracle:
    """What an export answers, one session at a time, without a service."""

    def __init__(self, path: Path):
        self.opened = OpenExport.open(path)
        self._recommender = Recommender(self.opened, open_search(self.opened, "exact"))

    def recommend(self, session: list[tuple[str, bool]], k: int = 10, **options: Any) -> list[tuple[str, float]]:
        rows = [(NAMES.index(track), 2 * skipped) for track, skipped in session]
        found = self._recommender.recommend(SessionHistory.of([rows]), RecommendOptions(k=k, **options))
        (rows_K,), (scores_K,) = found.rows_BK, found.scores_BK
        return [(NAMES[row], score) for row, score in zip(rows_K, scores_K.tolist(), strict=True) if row >= 0]


@pytest.fixture(scope="session")
def oracle(export: Path) -> Oracle:
    return Oracle(export)


@asynccontextmanager
async def asking(service: Service, base_url: str = "http://localhost") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the running service."""
    transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
    async with service.running(), httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        yield client


class Asked:
    """A service and a loop of its own, which runs while it is asked."""

    def __init__(self, config: ServeConfig):
        self.service = Service(config)
        self._runner = asyncio.Runner()
        self._context = asking(self.service)
        self._client = self._runner.run(self._context.__aenter__())

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, **options))

    def recommend(self, session: list[tuple[str, bool]], **options: Any) -> httpx.Response:
        return self("POST", "/recommend", json={"session": plays(session), **options})

    def close(self) -> None:
        self._runner.run(self._context.__aexit__(None, None, None))
        self._runner.close()


@pytest.fixture(scope="session")
def ask(export: Path, other: Path) -> Iterator[Asked]:
    """Asks a service of two exports."""
    asked = Asked(ServeConfig(export, other, search="exact", reload_s=0))
    yield asked
    asked.close()


def plays(session: list[tuple[str, bool]]) -> list[dict[str, Any]]:
    """A session as a request has it."""
    return [{"track": track, "skipped": skipped} for track, skipped in session]


def sentence(response: httpx.Response) -> str:
    """What the service says is wrong; one line, and nothing beside it."""
    answer = json.loads(response.content)
    assert list(answer) == ["detail"] and isinstance(answer["detail"], str)
    assert answer["detail"] and answer["detail"].isprintable()
    return answer["detail"]
