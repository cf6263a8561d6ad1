"""Small exports made by hand, as export writes them, and a way to ask an application without a network."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.search.opened_search import open_search
from skipwise.retrieval.serve.app import make_app
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.service import Service
from skipwise.training.checkpoint.checkpoint_index import FileRecord

TRACKS, DIM, MOST = 300, 8, 5
NAMES = [f"t_{row:03}" for row in range(TRACKS - 3)] + ["a/b c", "ü/ü", "t_000/x"]


class Mean(nn.Module):
    """Stands for an encoder: the mean of a session's rows, the last of them twice."""

    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        sessions_B = torch.arange(items_BTD.shape[0])
        return (items_BTD.sum(dim=1) + items_BTD[sessions_B, lengths_B - 1]) / (lengths_B[:, None] + 1)


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    """`Mean`, exported."""
    sessions, tracks = torch.export.Dim("sessions", min=1), torch.export.Dim("tracks", min=1, max=MOST)
    shapes = {"items_BTD": {0: sessions, 1: tracks}, "lengths_B": {0: sessions}}
    example = torch.zeros(3, MOST, DIM), torch.full((3,), MOST)
    file = tmp_path_factory.mktemp("program") / "encoder.pt2"
    torch.export.save(torch.export.export(Mean(), example, dynamic_shapes=shapes), file)
    return file


@pytest.fixture(scope="session")
def write_export(program: Path) -> Callable[..., Path]:
    """`write_export(folder, seed)` writes an export of random vectors; other arguments go into its manifest."""

    def write(folder: Path, seed: int = 0, **changes: Any) -> Path:
        folder.mkdir(parents=True)
        random = np.random.default_rng(seed)
        vectors = random.standard_normal((TRACKS, DIM)).astype(np.float32)
        rows = {"track_id": NAMES, "row": pa.array(range(TRACKS), pa.int32())}
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
        pq.write_table(pa.table(rows | {"embedding": values}), folder / "part.parquet")
        (folder / "encoder.pt2").write_bytes(program.read_bytes())
        np.save(folder / "queries.npy", vectors[:20])
        part, encoder, queries = (
            vars(FileRecord.of(folder, name)) for name in ("part.parquet", "encoder.pt2", "queries.npy")
        )
        manifest = ExportManifest(
            rows=TRACKS,
            dim=DIM,
            format="parquet",
            dtype="float32",
            vocabulary_hash=f"{seed:064}",
            parts=[part | {"first_row": 0, "rows": TRACKS}],
            tracks=[],
            encoder=encoder | {"max_tracks": MOST},
            onnx={},
            queries=queries | {"rows": 20},
            index={},
            since={},
            compared={},
            recipe="best",
            config={"data": {"skipped_tracks": "read"}, "loss": {"context": "track", "alpha": 0.25, "beta": 1.0}},
            trained={},
            versions={},
        )
        replace(manifest, **changes).write(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def export(write_export: Callable[..., Path], tmp_path_factory) -> Path:
    """An export that no test changes."""
    return write_export(tmp_path_factory.mktemp("exports") / "main")


@pytest.fixture(scope="session")
def other(write_export: Callable[..., Path], tmp_path_factory) -> Path:
    """One of other vectors, trained without skips."""
    config = {"data": {"skipped_tracks": "read"}, "loss": {"context": "none", "alpha": 0.25, "beta": 1.0}}
    return write_export(tmp_path_factory.mktemp("exports") / "other", seed=1, config=config)


class Oracle:
    """What an export answers, one session at a time, without a service."""

    def __init__(self, path: Path):
        self.opened = OpenExport.open(path)
        self._recommender = Recommender(self.opened, open_search(self.opened, "exact"))

    def recommend(self, session: list[tuple[str, bool]], k: int = 10, **options: Any) -> list[tuple[str, float]]:
        rows = [(NAMES.index(track), skipped) for track, skipped in session]
        found = self._recommender.recommend(SessionHistory.of([rows]), RecommendOptions(k=k, **options))
        (rows_K,), (scores_K,) = found
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
